"""Tables shared out to several devices, with the host in their place: routing, gathering, and what is left behind."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import errors
from embstore.arrays import Arrays, TableShape
from embstore.cuda import SplitTable, driver, to_device
from embstore.cuda.split import shares
from embstore.testing.laws import same

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from in_memory import table_of
from pair import configurations, encoded
from test_gpu_table import OnDevice

N, DIM = 300, 24
DEVICES = ["cuda:0", "cuda:1", "cuda:2"]


@pytest.fixture(autouse=True)
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def host() -> HostDriver:
    return HostDriver(devices=3)


@pytest.fixture
def table(tmp_path: Path) -> embstore.Table:
    rows = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
    return embstore.compress(rows, tmp_path / "t", "int8", keys=[f"w{i}" for i in range(N)])


@pytest.fixture
def split(table: embstore.Table, host: HostDriver) -> SplitTable:
    found = to_device(table, DEVICES, host)
    assert isinstance(found, SplitTable)
    return found


def test_shares() -> None:
    assert shares(300, 3) == [(0, 100), (100, 200), (200, 300)]
    assert shares(10, 3) == [(0, 3), (3, 7), (7, 10)]
    assert shares(1, 3) == [(0, 0), (0, 1), (1, 1)]
    assert shares(100, 2, 64) == [(0, 64), (64, 100)]
    assert shares(40, 3, 64) == [(0, 0), (0, 0), (0, 40)] or shares(40, 3, 64)[-1][1] == 40
    for rows, parts, together in ((1000, 7, 16), (5, 8, 1), (130, 4, 64)):
        found = shares(rows, parts, together)
        assert found[0][0] == 0 and found[-1][1] == rows
        assert all(a[1] == b[0] and a[1] % together == 0 for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("method", configurations(), ids=repr)
def test_rows_of_every_method(method: Any, host: HostDriver) -> None:
    """A device with some rows alone gives those of the whole table."""
    shape = TableShape(67, 50)
    method = method.resolve(shape)
    rows, shared = encoded(method, shape)
    table = table_of(
        method, shape, [Arrays({k: v[s : s + 32] for k, v in rows.items()}, s) for s in (0, 32, 64)], 32, shared
    )
    ids = np.concatenate([np.arange(67), np.random.default_rng(2).integers(0, 67, 65)])
    whole, split = to_device(table, "cuda", host), to_device(table, DEVICES, host)
    for given in (ids, OnDevice(host, ids, device=1)):
        assert same(split.lookup(given).numpy(), whole.lookup(ids).numpy())  # type: ignore[union-attr]
    if method.id != "svd":  # of which one device adds codes
        bags = ids[:130].reshape(13, 10)
        assert same(split.bag(bags, mode="mean").numpy(), whole.bag(bags, mode="mean").numpy())  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["int8", "float16", "pq", "nf4"])
def test_bags_have_the_bits_of_one_device(method: str, host: HostDriver, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((N, DIM)).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", method)
    split = to_device(table, DEVICES, host)
    ids, offsets = rng.integers(0, N, 90), np.array([0, 0, 40, 90])
    weights = rng.standard_normal(90).astype(np.float32)
    for mode, w in (("sum", None), ("mean", None), ("max", None), ("sum", weights)):
        for last in (True, False):
            want = table.bag(ids, offsets, mode, w, last)  # type: ignore[arg-type]
            assert same(split.bag(ids, offsets, mode, w, last).numpy(), want)  # type: ignore
            here = OnDevice(host, ids, device=1), OnDevice(host, offsets, device=1)
            given = None if w is None else OnDevice(host, w, device=1)
            assert same(split.bag(*here, mode, given, last).numpy(), want)  # type: ignore
    assert same(split.bag(ids.reshape(9, 10)).numpy(), table.bag(ids.reshape(9, 10)))  # type: ignore[union-attr]
    assert split.bag(np.array([], np.int64), np.array([0, 0])).numpy().tolist() == [[0.0] * DIM] * 2  # type: ignore


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("home", [0, 1, 2])
def test_results_are_where_the_ids_are(
    table: embstore.Table, split: SplitTable, host: HostDriver, home: int, dtype: str
) -> None:
    ids = np.array([[3, 150, 299], [0, 100, 7]], dtype)
    held = len(host.held)
    given = OnDevice(host, ids, device=home)
    rows = split.lookup(given)
    assert rows.device == home
    assert same(rows.numpy(), table.lookup(ids))
    for out_dtype in ("float32", "float16"):
        out = OnDevice(host, np.zeros((2, 3, DIM), out_dtype), device=home)
        assert split.lookup(given, out=out) is out
        assert same(out.read(), table.lookup(ids, out=np.empty((2, 3, DIM), out_dtype)))
        assert split.lookup(ids, out=out) is out  # ids of the host follow it
    del rows
    assert len(host.held) == held + 3  # ids and two outputs


def test_every_other_stream_follows_the_callers_and_is_followed(split: SplitTable, host: HostDriver) -> None:
    waits = host.waits
    host.followed.clear()
    split.lookup(OnDevice(host, np.arange(9), device=1), stream=77)
    assert host.waits == waits
    first, third = split._streams[0], split._streams[2]
    assert host.followed == [(0, first, 1, 77), (2, third, 1, 77), (1, 77, 0, first), (1, 77, 2, third)]


def test_what_travels(split: SplitTable, host: HostDriver) -> None:
    """Of ids of the host devices have their own and send those rows; of ids of a device all, and as many rows."""
    row = 4 * DIM
    for ids, others in (([1, 2, 99], 0), ([1, 250, 150, 151], 3)):
        host.copied = 0
        split.lookup(ids)
        assert host.copied == others * row
        host.copied = 0
        split.lookup(OnDevice(host, np.array(ids, np.int32)))
        assert host.copied == 2 * len(ids) * (4 + row)


def test_keys_slices_and_facts(table: embstore.Table, split: SplitTable) -> None:
    assert same(split[["w3", "w250"]].numpy(), table.lookup([3, 250]))
    assert same(split[90:110].numpy(), table[90:110])
    assert same(split["w120"].numpy(), table[120])
    assert split.lookup(np.empty(0, np.int64)).shape == (0, DIM)
    assert split.devices == DEVICES and len(split) == N
    assert [r.rows_on_device for r in split.report()] == [100, 100, 100]
    assert split.nbytes >= table.nbytes
    assert "int8.cu on cuda:0, cuda:1, cuda:2" in split.explain()
    assert "cuda:0, cuda:1, cuda:2" in repr(split)


def test_ids_out_of_range_are_told_once(split: SplitTable, host: HostDriver, table: embstore.Table) -> None:
    with pytest.raises(errors.IdRangeError, match=f"found {N} at position 1"):
        split.lookup([1, N])
    ids = np.array([5, N, 250, -4])
    out = OnDevice(host, np.full((4, DIM), 77, np.float32), device=1)
    split.lookup(OnDevice(host, ids, device=1), out=out)
    assert same(out.read()[[0, 2]], table.lookup([5, 250]))
    assert (out.read()[[1, 3]] == 77).all()
    with pytest.raises(errors.IdRangeError, match=f"found {N} at position 1"):
        split.synchronize()
    split.synchronize()
    with pytest.raises(errors.IdRangeError, match=f"found {N} at position 1"):
        split.bag(OnDevice(host, ids.reshape(1, 4), device=2), check="eager")
    split.bag(OnDevice(host, ids.reshape(1, 4), device=0))
    with pytest.raises(errors.IdRangeError, match=f"found {N} at position 1"):
        split.close()
    assert "closed" in repr(split)


def test_offsets_out_of_range_are_told(split: SplitTable, host: HostDriver) -> None:
    with pytest.raises(errors.ShapeError, match="found 3 at position 1"):
        split.bag(OnDevice(host, np.arange(6), 1), OnDevice(host, np.array([0, 3, 2]), 1), check="eager")


def test_fewer_rows_than_devices_and_a_device_twice(host: HostDriver, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", "float32")
    for devices in (DEVICES, ["cuda:1", "cuda:1"], ["cuda:2"]):
        with to_device(table, devices, host) as split:  # type: ignore[union-attr]
            assert same(split.lookup([1, 0, 1]).numpy(), rows[[1, 0, 1]])


def test_nothing_is_left_behind(table: embstore.Table, host: HostDriver) -> None:
    with to_device(table, DEVICES, host) as split:  # type: ignore[union-attr]
        assert len(host.made) == 3
        split.lookup([1, 200]).numpy()
        split.bag([[1, 200]]).numpy()
    assert not host.held and not host.made
    with pytest.raises(errors.DeviceError, match="must be open, found it closed"):
        split.lookup([1])
    split.close()
    with pytest.raises(errors.DeviceError):
        to_device(table, ["cuda:0", "cuda:7"], host)
    assert not host.held and not host.made
    small = HostDriver(devices=2, memory=table.nbytes // 2)
    with pytest.raises(errors.DeviceMemoryError):
        to_device(table, DEVICES[:2], small)
    assert not small.held and not small.made


def test_what_is_refused(table: embstore.Table, split: SplitTable, host: HostDriver) -> None:
    for devices in ([], ["cpu"], ["cuda:0", "cpu"]):
        with pytest.raises(errors.ConfigError, match="devices must be CUDA devices, one or more"):
            to_device(table, devices, host)
    with pytest.raises(errors.ConfigError, match="cache_bytes is of one device"):
        to_device(table, DEVICES, host, cache_bytes=10_000)
    with pytest.raises(errors.DeviceError, match="ids must be on cuda:0, found on cuda:1"):
        split.bag(OnDevice(host, np.array([[1]]), 1), out=OnDevice(host, np.zeros((1, DIM), np.float32), 0))
    with pytest.raises(errors.ConfigError, match="check must be one of"):
        split.lookup([1], check="never")  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("method", ["float16", "int8", "rotate,rabitq", "tt"])
def test_hits_are_those_of_one_device(method: str, metric: str, host: HostDriver, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((700, 16)).astype(np.float32)
    rows[400:500] = rows[:100]  # equal scores on two devices come by id
    table = embstore.compress(rows, tmp_path / "t", method)
    whole, split = to_device(table, "cuda", host), to_device(table, DEVICES, host)
    mask = rng.random(700) < 0.2
    for n, k, filter in ((1, 1, None), (150, 10, None), (3, 700, None), (3, 300, mask)):
        queries = rng.standard_normal((n, 16)).astype(np.float32)
        want = whole.search(queries, k, metric, filter=filter, exact=True)  # type: ignore[union-attr]
        found = split.search(queries, k, metric, filter=filter, exact=True)  # type: ignore[union-attr]
        assert all(same(a.numpy(), b.numpy()) for a, b in zip(found, want, strict=True))
    given = OnDevice(host, queries, device=1)
    here = split.search(given, 300, metric, filter=OnDevice(host, mask, device=1), exact=True)  # type: ignore[union-attr]
    assert [a.device for a in here] == [1, 1]
    assert all(same(a.numpy(), b.numpy()) for a, b in zip(here, want, strict=True))
    # Every device chooses its own candidates: together they are more than those of one.
    near, best = split.search(rows[:50], 5, metric)[1].numpy(), table.search(rows[:50], 5, metric)[1]  # type: ignore
    assert (np.sort(near) == np.sort(best)).mean() > 0.98


def test_a_search_leaves_nothing_and_empty_parts_have_no_part(host: HostDriver, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", "int8")
    with to_device(table, DEVICES, host) as split:  # type: ignore[union-attr]
        split.search(rows, 2, "l2")
        held = len(host.held)
        assert (split.search(rows, 2, "l2")[1].numpy() == [[0, 1], [1, 0]]).all()
        assert split.search(np.empty((0, 8), np.float32), 2)[0].shape == (0, 2)
        assert len(host.held) == held
    assert not host.held


def test_streams_of_a_search_follow_each_other(split: SplitTable, host: HostDriver) -> None:
    """Others begin behind the caller's stream, leave hits there once it has read those of the batch before, and it goes
    on behind them."""
    host.followed.clear()
    split.search(OnDevice(host, np.ones((3, DIM), np.float32), device=1), 4, stream=77)
    first, third = split._streams[0], split._streams[2]
    begin = [(0, first, 1, 77), (2, third, 1, 77)]
    end = [(0, first, 1, 77), (1, 77, 0, first), (2, third, 1, 77), (1, 77, 2, third)]
    assert host.followed == begin + end


def test_runs_of_rows_stay_together_behind_transforms(host: HostDriver, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", "center,pruned", density=0.3, rows_per_start=64, index="bitmap")
    split = to_device(table, DEVICES, host)
    assert split.shares == [(0, 128), (128, 192), (192, 300)]  # type: ignore[union-attr]
    assert same(split.lookup(np.arange(N)).numpy(), table[:])  # type: ignore[union-attr]
