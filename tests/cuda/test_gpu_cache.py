"""Tables larger than a device's memory, with the host in place of a device: which rows are kept, and what is read."""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import errors, registry
from embstore.arrays import Arrays, TableShape
from embstore.cuda import GpuTable, driver, to_device
from embstore.testing.laws import same

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from in_memory import table_of
from pair import configurations, encoded

from embstore.cuda.cache import Cached, CachePlan, hottest, map_nbytes, map_of

# Methods whose rows are decoded from codes of their own, and so can be kept one by one.
BY_ROW = {
    "float32", "float16", "bfloat16", "int16", "int8", "int4", "int2", "nf4", "dynamic8", "pq", "rq", "tcq", "rabitq",
    "turboquant", "binary",
}  # fmt: skip
N, DIM = 300, 24


@pytest.fixture(autouse=True)
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def host() -> HostDriver:
    return HostDriver()


@pytest.fixture
def table(tmp_path: Path) -> embstore.Table:
    rows = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
    return embstore.compress(rows, tmp_path / "t", "int8")


def overhead(rows: int, row_nbytes: int, counted: bool) -> int:
    return CachePlan(0, None if counted else np.zeros(rows)).overhead(row_nbytes, rows)


def cached(
    table: embstore.Table, host: HostDriver, rows: int, counts: Any = None, every: int | None = None
) -> GpuTable:
    """The table with room for `rows` rows on the device, however small rows are beside their map."""
    row = sum(s.row_nbytes for s in table._stored.specs if s.partition == "rows")
    nbytes = overhead(table.num_embeddings, row, counts is None) + rows * row
    gpu = GpuTable(table, 0, host, CachePlan(nbytes, None if counts is None else np.asarray(counts, float), every))
    assert gpu.report().rows_on_device == rows
    return gpu


def kept(gpu: GpuTable) -> Any:
    """Ids of the rows on the device, by its map."""
    placed = gpu._open
    assert isinstance(placed, Cached)
    words = driver.bytes_at(placed._slots, map_nbytes(len(gpu))).view(np.uint64)
    bits = np.unpackbits((words & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.uint8), bitorder="little")
    return np.flatnonzero(bits)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 1000])
def test_the_map_of_kept_rows(n: int) -> None:
    rng = np.random.default_rng(n)
    for share in (0.0, 0.3, 1.0):
        hot = np.flatnonzero(rng.random(n) < share)
        words = map_of(hot, n)
        assert words.nbytes == map_nbytes(n)
        for slot, row in enumerate(hot.tolist()):
            word = int(words[row // 32])
            assert word >> (row % 32) & 1
            assert (word >> 32) + (word & ((1 << row % 32) - 1)).bit_count() == slot
        assert sum((int(word) & 0xFFFFFFFF).bit_count() for word in words) == len(hot)


def test_the_hottest_rows() -> None:
    counts = np.array([3, 9, 3, 0, 3, 7])
    assert hottest(counts, 1).tolist() == [1]
    assert hottest(counts, 3).tolist() == [0, 1, 5]
    assert hottest(counts, 4).tolist() == [0, 1, 2, 5]
    assert hottest(counts, 9).tolist() == [0, 1, 2, 3, 4, 5]
    assert hottest(np.zeros(5), 2).tolist() == [0, 1]


@pytest.mark.parametrize("method", [m for m in configurations() if m.id in BY_ROW], ids=repr)
def test_rows_and_bags_are_those_of_a_table_on_the_device(method: Any, host: HostDriver) -> None:
    shape = TableShape(67, 50)
    method = method.resolve(shape)
    rows, shared = encoded(method, shape)
    table = table_of(
        method, shape, [Arrays({k: v[s : s + 32] for k, v in rows.items()}, s) for s in (0, 32, 64)], 32, shared
    )
    counts = np.random.default_rng(1).integers(0, 9, 67)
    whole = to_device(table, "cuda", host)
    gpu = cached(table, host, 20, counts=counts)
    assert np.array_equal(kept(gpu), hottest(counts, 20))
    ids = np.concatenate([np.arange(67), np.random.default_rng(2).integers(0, 67, 65)])
    offsets = np.array([0, 0, 50, 90])
    for again in range(2):
        assert same(gpu.lookup(ids).numpy(), whole.lookup(ids).numpy())  # type: ignore[union-attr]
        for mode in ("sum", "mean", "max"):
            assert same(gpu.bag(ids, offsets, mode).numpy(), whole.bag(ids, offsets, mode).numpy())  # type: ignore
        if not again:
            gpu.refill(counts[::-1])
            assert np.array_equal(kept(gpu), hottest(counts[::-1], 20))


def test_rows_kept_are_read_from_the_device_and_others_from_the_host(table: embstore.Table, host: HostDriver) -> None:
    counts = np.arange(N)
    gpu = cached(table, host, 100, counts=counts)
    for _, (nbytes, array) in host.pinned.items():  # spoil the host's copy: what is kept does not show it
        assert nbytes >= N
        array[:] = 0xFF
    rows, want = gpu.lookup(np.arange(N)).numpy(), table.lookup(np.arange(N))
    assert same(rows[200:], want[200:])
    assert all(not same(rows[i], want[i]) for i in range(200))


def test_it_learns_from_ids_and_forgets(table: embstore.Table, host: HostDriver) -> None:
    gpu = cached(table, host, 10)
    assert kept(gpu).tolist() == list(range(10))
    gpu.lookup(np.repeat(np.arange(100, 110), 3))
    gpu.bag(np.array([[7, 7, 200], [7, 7, 200]]))
    assert kept(gpu).tolist() == list(range(10))  # nothing moves by itself
    gpu.refill()
    assert kept(gpu).tolist() == [7, *range(100, 109)]
    gpu.lookup(np.repeat(np.arange(250, 260), 2))  # 2 each, beside halves of 3 and 4
    gpu.refill()
    assert kept(gpu).tolist() == [7, *range(250, 259)]


def test_a_refill_comes_between_calls(table: embstore.Table, host: HostDriver) -> None:
    gpu = cached(table, host, 5, every=30)
    waits = host.waits
    gpu.lookup(np.repeat(np.arange(50, 55), 6))
    assert host.waits == waits
    assert kept(gpu).tolist() == [0, 1, 2, 3, 4]
    gpu.lookup([1])
    assert host.waits > waits
    assert kept(gpu).tolist() == [50, 51, 52, 53, 54]
    waits = host.waits
    gpu.lookup([1])
    assert host.waits == waits


def test_no_thread_moves_rows_while_another_launches(table: embstore.Table, host: HostDriver) -> None:
    gpu = cached(table, host, 5)
    gpu.lookup(np.arange(90, 95))
    refill = threading.Thread(target=gpu.refill)
    with gpu._open.call():
        refill.start()
        refill.join(0.2)
        assert refill.is_alive() and kept(gpu).tolist() == [0, 1, 2, 3, 4]
    refill.join()
    assert kept(gpu).tolist() == [90, 91, 92, 93, 94]


def test_the_report(table: embstore.Table, host: HostDriver) -> None:
    whole = to_device(table, "cuda", host)
    assert isinstance(whole, GpuTable)
    found = whole.report()
    assert (found.device_nbytes, found.host_nbytes, found.rows_on_device) == (whole.nbytes, 0, N)
    assert (found.hits, found.misses, found.hit_rate) == (None, None, 1.0)
    whole.refill()  # nothing to choose
    gpu = cached(table, host, 40)
    assert gpu.report().hit_rate is None
    gpu.lookup(np.arange(100))
    gpu.bag(np.arange(30).reshape(2, 15))
    found = gpu.report()
    assert (found.hits, found.misses) == (70, 60)
    assert found.hit_rate == pytest.approx(70 / 130)
    assert found.device_nbytes == gpu.nbytes == sum(n for a, (_, n, _) in host.held.items()) - 24 * 2 - whole.nbytes
    assert found.host_nbytes == sum(n for n, _ in host.pinned.values()) >= N * (DIM + 4)


def test_ids_out_of_range_are_told_and_not_counted(table: embstore.Table, host: HostDriver) -> None:
    from test_gpu_table import OnDevice

    gpu = cached(table, host, 40)
    gpu.lookup(OnDevice(host, np.array([3, N, -1, 290], np.int32)))
    with pytest.raises(errors.IdRangeError, match=f"found {N} at position 1"):
        gpu.synchronize()
    found = gpu.report()
    assert (found.hits, found.misses) == (1, 1)


def test_many_ids_are_counted_once_each(table: embstore.Table, host: HostDriver) -> None:
    gpu = cached(table, host, 40)
    ids = np.random.default_rng(3).integers(0, N, 50_000)
    gpu.lookup(ids)
    found = gpu.report()
    assert (found.hits, found.misses) == ((ids < 40).sum(), (ids >= 40).sum())
    gpu.refill()
    assert np.array_equal(kept(gpu), hottest(np.bincount(ids, minlength=N), 40))


def test_with_transforms_and_in_searches(tmp_path: Path, host: HostDriver) -> None:
    rows = np.random.default_rng(4).standard_normal((N, DIM)).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "r", "rotate,int8")
    whole, gpu = to_device(table, "cuda", host), cached(table, host, 50)
    ids = np.random.default_rng(5).integers(0, N, 200)
    assert same(gpu.lookup(ids).numpy(), whole.lookup(ids).numpy())  # type: ignore[union-attr]
    for metric in ("ip", "cosine", "l2"):
        for mine, theirs in zip(gpu.search(rows[:3], 7, metric), whole.search(rows[:3], 7, metric), strict=True):  # type: ignore
            assert same(mine.numpy(), theirs.numpy())


def test_nothing_is_left_behind(table: embstore.Table, host: HostDriver) -> None:
    with cached(table, host, 40) as gpu:
        assert host.pinned and host.held
        gpu.lookup([1, 2]).numpy()
    assert not host.pinned and not host.held
    row = DIM + 4
    for small in (HostDriver(memory=500), HostDriver()):
        small.pinnable = small.pinnable if small.memory == 500 else N * row // 2
        with pytest.raises(errors.DeviceMemoryError):
            to_device(table, "cuda", small, cache_bytes=overhead(N, row, True) + 30 * row)
        assert not small.pinned and not small.held and small.pinnable in (1 << 40, N * row // 2)
    assert table.lookup([1]).shape == (1, DIM)


def test_a_table_that_fits_is_whole_on_the_device(table: embstore.Table, host: HostDriver) -> None:
    with to_device(table, "cuda", host, cache_bytes="1GB") as gpu:  # type: ignore[union-attr]
        assert not host.pinned
        assert gpu.report().rows_on_device == N


def test_what_is_refused(table: embstore.Table, host: HostDriver, tmp_path: Path) -> None:
    row = DIM + 4
    least = overhead(N, row, True) + row
    with pytest.raises(
        errors.BudgetError, match=f"cache_bytes must be at least {least:,} for this table, found 100"
    ) as e:
        to_device(table, "cuda", host, cache_bytes=100)
    assert e.value.floor == least
    with pytest.raises(errors.ConfigError, match="of a table with cache_bytes, found none"):
        to_device(table, "cuda", host, counts=np.ones(N))
    with pytest.raises(errors.ConfigError, match="refill_every must be a number of ids, found 0"):
        to_device(table, "cuda", host, cache_bytes=least, refill_every=0)
    with pytest.raises(errors.ConfigError, match="refill_every is for counts learned"):
        to_device(table, "cuda", host, cache_bytes=least, refill_every=9, counts=np.ones(N))
    with pytest.raises(errors.ShapeError, match=f"counts must be {N} numbers"):
        to_device(table, "cuda", host, cache_bytes=least, counts=np.ones(N - 1))
    for bad in (np.full(N, -1.0), np.full(N, np.nan)):
        with pytest.raises(errors.ConfigError, match="counts must be finite and not negative"):
            to_device(table, "cuda", host, cache_bytes=least, counts=bad)
    with pytest.raises(errors.ConfigError, match="budget must be"):
        to_device(table, "cuda", host, cache_bytes="much")
    assert not host.held and not host.pinned
    with (
        cached(table, host, 5, counts=np.ones(N)) as gpu,
        pytest.raises(errors.ConfigError, match="refill needs counts"),
    ):
        gpu.refill()


@pytest.mark.parametrize("name", driver.extension().methods())
def test_methods_that_read_rows_otherwise_are_refused(name: str, host: HostDriver) -> None:
    """By one sentence, before anything is taken."""
    shape = TableShape(200, 32)
    method = registry.get(name)().resolve(shape)
    if not any(spec.partition == "rows" for spec in method.layout(shape)):
        assert name not in BY_ROW
        return
    rows, shared = encoded(method, shape)
    table = table_of(method, shape, [Arrays(rows)], 256, shared)
    plan = CachePlan(10_000, np.ones(200))
    if name in BY_ROW:
        GpuTable(table, 0, host, plan).close()
    else:
        with pytest.raises(errors.ConfigError, match="cache_bytes needs a method whose rows are decoded from codes of"):
            GpuTable(table, 0, host, plan)
    assert not host.held and not host.pinned


def test_what_the_host_cannot_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(RuntimeError):
        pass

    def allocate_host(device: int, nbytes: int) -> int:
        raise Refused(2, "out of memory")

    module = importlib.import_module("types").SimpleNamespace(Refused=Refused, allocate_host=allocate_host)
    monkeypatch.setattr(driver, "_load", lambda: module)
    with pytest.raises(
        errors.DeviceMemoryError, match=r"need 1,000 bytes of pinned memory of the host, found it refused"
    ):
        driver.Driver().allocate_host(0, 1000)
