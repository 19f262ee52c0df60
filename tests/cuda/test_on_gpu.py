"""On a GPU: every kernel against the native one, and tables with CuPy and PyTorch. `bench/gpu_check.py` runs these."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from in_memory import table_of
from pair import NOT_SO_WIDE, Pair, configurations, encoded, method_for, why_no_device

from embstore import errors, registry
from embstore.arrays import Arrays, TableShape
from embstore.cuda import GpuTable, driver, to_device
from embstore.cuda.driver import Driver
from embstore.method import RowMethod
from embstore.testing.laws import same

pytestmark = pytest.mark.gpu
if (why := why_no_device()) is not None:
    pytest.skip(why, allow_module_level=True)

WITH_KERNEL = driver.extension().methods()
CONFIGURED = configurations()
N, DIM = 5000, 128


def checked(method: RowMethod, rows: int, dim: int, seed: int) -> None:
    pair = Pair(Driver(), method, rows, dim, seed)
    try:
        pair.check(seed)
    finally:
        pair.close()


# Seeds differ from run to run: a race or a wrong index shows on some inputs only. A failure prints its own.
SEED = int(np.random.SeedSequence().entropy) % (1 << 31)


@pytest.mark.parametrize("method", CONFIGURED, ids=repr)
def test_every_config(method: RowMethod) -> None:
    for rows, dim in ((67, 50), (1000, 128)):
        checked(method, rows, dim, SEED)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 16, 31, 64, 97, 128, 129, 300, 1030, 4400])
@pytest.mark.parametrize("name", WITH_KERNEL)
def test_every_dim(name: str, dim: int) -> None:
    if dim > 4000 and name in NOT_SO_WIDE:
        return
    checked(method_for(name, dim), 33, dim, SEED)


@pytest.mark.parametrize("name", WITH_KERNEL)
def test_ids_out_of_range_are_skipped_and_the_first_is_told(name: str) -> None:
    pair = Pair(Driver(), registry.get(name)(), 40, 24)
    ids = np.random.default_rng(SEED).integers(0, 40, 100_000)
    bad = np.array([70_001, 99_999, 31_007, 31_008])
    good = np.delete(np.arange(len(ids)), bad)
    expected = pair.lookup(ids)  # every other test has these compared
    ids[bad] = [40, -1, 1 << 40, 41]
    rows = pair.lookup(ids)
    assert same(rows[good], expected[good])
    assert (rows[bad] == 77).all()
    assert pair.fault == [1, 31_007, 1 << 40]
    pair.clear_fault()
    pair.bag(ids, np.arange(0, len(ids) + 1, 10), "sum", None)
    assert pair.fault == [1, 31_007, 1 << 40]
    pair.clear_fault()
    pair.lookup(np.full(1_000_000, -7))
    assert pair.fault == [1, 0, -7]
    pair.close()


def test_the_same_call_gives_the_same_bits() -> None:
    pair = Pair(Driver(), registry.get("int8")(), 3000, 128)
    ids = np.random.default_rng(SEED).integers(0, 3000, 200_000)
    first = pair.bag(ids, np.arange(0, len(ids) + 1, 40), "mean", None)
    for _ in range(5):
        assert same(pair.bag(ids, np.arange(0, len(ids) + 1, 40), "mean", None), first)
    pair.close()


@pytest.fixture(scope="module", params=["int8", "int4", "nf4", "float16", "pq"])
def table(request: pytest.FixtureRequest) -> Any:
    shape = TableShape(N, DIM)
    method = registry.get(request.param)().resolve(shape)
    rows, shared = encoded(method, shape, 3)
    shards = [Arrays({k: v[s : s + 1024] for k, v in rows.items()}, s) for s in range(0, N, 1024)]
    return table_of(method, shape, shards, 1024, shared)


@pytest.fixture
def gpu(table: Any) -> Any:
    with table.to("cuda") as found:
        yield found


IDS = np.random.default_rng(SEED).integers(0, N, (50, 32))


def test_cupy_in_cupy_out(table: Any, gpu: GpuTable) -> None:
    cupy = pytest.importorskip("cupy")
    for dtype, stream in itertools.product(("int64", "int32"), (None, cupy.cuda.Stream(non_blocking=True))):
        with stream or cupy.cuda.Stream.null:
            ids = cupy.asarray(IDS.astype(dtype))
            rows, bags = gpu.lookup(ids), gpu.bag(ids, mode="mean")
            half = gpu.lookup(ids, out=cupy.empty((50, 32, DIM), cupy.float16))
        cupy.cuda.Device().synchronize()
        assert isinstance(rows, cupy.ndarray)
        assert same(rows.get(), table.lookup(IDS))
        assert same(half.get(), table.lookup(IDS, out=np.empty((50, 32, DIM), np.float16)))
        assert same(bags.get(), table.bag(IDS, mode="mean"))
    assert isinstance(gpu.lookup(IDS), cupy.ndarray)


def test_torch_in_torch_out(table: Any, gpu: GpuTable) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    for dtype, stream in itertools.product((torch.int64, torch.int32), (None, torch.cuda.Stream())):
        with torch.cuda.stream(stream):
            ids = torch.from_numpy(IDS).to("cuda", dtype)
            rows, flat = gpu.lookup(ids), ids.reshape(-1)
            offsets = torch.arange(0, flat.numel(), 32, device="cuda")
            weights = torch.rand(flat.shape, device="cuda")
            bags = gpu.bag(flat, offsets, per_sample_weights=weights)
            turned = gpu.lookup(ids.T)
        torch.cuda.synchronize()
        assert rows.is_cuda and rows.dtype == torch.float32
        assert same(rows.cpu().numpy(), table.lookup(IDS))
        assert same(turned.cpu().numpy(), table.lookup(IDS.T))
        expected = table.bag(IDS.reshape(-1), np.arange(0, IDS.size, 32), per_sample_weights=weights.cpu().numpy())
        assert same(bags.cpu().numpy(), expected)


def test_explicit_streams_are_kept_to(table: Any, gpu: GpuTable) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    stream = torch.cuda.Stream()
    ids = torch.from_numpy(IDS).cuda()
    torch.cuda.synchronize()
    for _ in range(20):
        rows = gpu.lookup(ids, stream=stream)
        stream.synchronize()
        assert same(rows.cpu().numpy(), table.lookup(IDS))


def test_a_call_waits_for_nothing(gpu: GpuTable) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    ids = torch.from_numpy(IDS).cuda()
    gpu.lookup(ids)
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # about a tenth of a second of the device
    done = torch.cuda.Event()
    gpu.lookup(ids)
    gpu.bag(ids)
    done.record()
    assert not done.query()
    torch.cuda.synchronize()


def test_own_arrays(table: Any, gpu: GpuTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rows = gpu.lookup(IDS)
    assert type(rows).__name__ == "DeviceArray"
    assert same(rows.numpy(), table.lookup(IDS))
    cupy = pytest.importorskip("cupy")
    assert same(cupy.asarray(rows).get(), table.lookup(IDS))
    assert same(cupy.from_dlpack(rows).get(), table.lookup(IDS))


def test_faults_and_wrong_places(gpu: GpuTable) -> None:
    cupy = pytest.importorskip("cupy")
    ids = cupy.asarray([1, N, 3])
    with pytest.raises(errors.IdRangeError, match=f"found {N} at position 1"):
        gpu.lookup(ids, check="eager")
    gpu.bag(ids.reshape(1, 3))
    with pytest.raises(errors.IdRangeError, match=f"found {N} at position 1"):
        gpu.synchronize()
    gpu.synchronize()
    with pytest.raises(errors.IdTypeError):
        gpu.lookup(cupy.asarray([1.5]))
    with pytest.raises(errors.DeviceError, match="must be one of cuda:0"):
        gpu.table.to("cuda:99")


def test_memory_that_is_exhausted(table: Any, gpu: GpuTable) -> None:
    with pytest.raises(errors.DeviceMemoryError, match="stays usable"):
        Driver().allocate(0, 1 << 50)
    assert same(table.lookup(IDS), np.asarray(table.lookup(IDS)))
    assert gpu.lookup(IDS).shape == (50, 32, DIM)


def on_host(array: Any) -> Any:
    """A copy of a CuPy or an own array on the host."""
    return array.get() if hasattr(array, "get") else array.numpy()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_search(table: Any, gpu: GpuTable, metric: str) -> None:
    """The host's hits but for rounding of their scores."""
    queries = np.random.default_rng(SEED).standard_normal((37, DIM)).astype(np.float32)
    mask = np.random.default_rng(SEED).random(N) < 0.3
    for k, filter in ((1, None), (10, None), (600, None), (10, mask)):
        want, _ = table.search(queries, k, metric, filter=filter, rerank_k=N)
        found, ids = (on_host(a) for a in gpu.search(queries, k, metric, filter=filter, exact=True))
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5 * float(np.abs(want).max()))
        rows = table.lookup(ids)
        own = np.einsum("qkd,qd->qk", rows, queries) if metric == "ip" else None
        assert own is None or np.allclose(own, found, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))
        assert filter is None or mask[ids].all()


def test_rounded_queries_choose_nearly_the_best(table: Any, gpu: GpuTable) -> None:
    """Of methods whose codes are scored in integers; of others these are all the best."""
    queries = np.random.default_rng(SEED).standard_normal((37, DIM)).astype(np.float32)
    found, best = (on_host(gpu.search(queries, 10, exact=exact)[1]) for exact in (False, True))
    shared = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), best.tolist(), strict=True))
    assert shared >= 0.97 * best.size


def test_search_over_more_rows_than_a_list_holds() -> None:
    method = registry.get("int8")().resolve(TableShape(300_000, 16))
    arrays, shared = encoded(method, TableShape(3000, 16), 5)
    rows = {name: np.tile(a, (100, *[1] * (a.ndim - 1))) for name, a in arrays.items()}
    table = table_of(method, TableShape(300_000, 16), [Arrays(rows)], 1 << 19, shared)
    queries = np.random.default_rng(SEED).standard_normal((130, 16)).astype(np.float32)
    with table.to("cuda") as gpu:
        found, ids = (on_host(a) for a in gpu.search(queries, 20, "l2", exact=True))
    want, best = table.search(queries, 20, "l2", rerank_k=20_000)  # its scan rounds queries, and rows repeat
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert (np.diff(ids)[np.diff(found) == 0] > 0).all()  # rows repeat: equal scores come by id
    assert best.shape == ids.shape


def test_rows_kept_on_the_device_and_rows_of_the_host(table: Any, gpu: GpuTable) -> None:
    """The bits of a table that is whole on the device, before and after a refill."""
    row = sum(s.row_nbytes for s in table._stored.specs if s.partition == "rows")
    for counts in (None, np.random.default_rng(SEED).random(N)):
        with table.to("cuda", cache_bytes=N * 5 + N * row // 4, counts=counts) as cached:
            for _ in range(2):
                assert same(on_host(cached.lookup(IDS)), on_host(gpu.lookup(IDS)))
                assert same(on_host(cached.bag(IDS, mode="mean")), on_host(gpu.bag(IDS, mode="mean")))
                for mine, whole in zip(cached.search(table[:3], 5), gpu.search(table[:3], 5), strict=True):
                    assert same(on_host(mine), on_host(whole))
                cached.refill(None if counts is None else counts[::-1])
            found = cached.report()
            assert found.hits + found.misses == 4 * IDS.size
            assert 0 < found.hits < 4 * IDS.size
            assert found.host_nbytes >= N * row
            assert found.device_nbytes < gpu.nbytes + 5 * N


def test_learned_rows_are_hits(table: Any) -> None:
    row = sum(s.row_nbytes for s in table._stored.specs if s.partition == "rows")
    few = np.random.default_rng(SEED).permutation(N)[:100]
    with table.to("cuda", cache_bytes=N * 5 + 200 * row + 4096) as cached:
        cached.lookup(np.repeat(few, 1000))
        cached.refill()
        before = cached.report()
        cached.lookup(few)
        assert cached.report().hits == before.hits + 100


def test_memory_that_the_host_cannot_pin() -> None:
    with pytest.raises(errors.DeviceMemoryError, match="bytes of pinned memory of the host, found it refused"):
        Driver().allocate_host(0, 1 << 50)


def places() -> list[list[int]]:
    """A device twice, and all of them where there are several."""
    count = int(driver.extension().found()["devices"])
    return [[0, 0], *([list(range(count))] if count > 1 else [])]


@pytest.mark.parametrize("devices", places(), ids=str)
def test_tables_shared_out_to_devices(table: Any, gpu: GpuTable, devices: list[int]) -> None:
    offsets, weights = np.array([0, 3, 3, 700, IDS.size]), np.random.default_rng(SEED).random(IDS.size, np.float32)
    queries = np.random.default_rng(SEED).standard_normal((37, DIM)).astype(np.float32)
    with table.to(devices) as split:
        for _ in range(5):
            assert same(on_host(split.lookup(IDS)), on_host(gpu.lookup(IDS)))
            bag = (IDS.ravel(), offsets, "sum", weights, True)
            assert same(on_host(split.bag(*bag)), on_host(gpu.bag(*bag)))
            for metric in ("cosine", "ip", "l2"):
                whole = gpu.search(queries, 20, metric, exact=True)
                for mine, theirs in zip(split.search(queries, 20, metric, exact=True), whole, strict=True):
                    assert same(on_host(mine), on_host(theirs))


def test_a_call_on_several_devices_waits_for_nothing(table: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    with table.to(places()[-1]) as split:
        ids = torch.from_numpy(IDS).cuda()
        split.lookup(ids)
        torch.cuda.synchronize()
        torch.cuda._sleep(200_000_000)
        done = torch.cuda.Event()
        rows = split.lookup(ids)
        done.record()
        assert not done.query()
        torch.cuda.synchronize()
        assert same(rows.cpu().numpy(), table.lookup(IDS))


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("name", ["int8", "int4", "rabitq", "binary"])
def test_scores_in_integers_are_those_of_the_host(name: str, metric: str) -> None:
    """Sums of integers, and what becomes of them in the same order, have no rounding of their own."""
    from host import HostDriver
    from test_coded import scored

    shape = TableShape(3000, DIM)
    method = registry.get(name)().resolve(shape)
    rows, shared = encoded(method, shape, 4)
    table = table_of(method, shape, [Arrays(rows)], 4096, shared)
    queries = np.random.default_rng(SEED).standard_normal((37, DIM)).astype(np.float32)
    twin = to_device(table, "cuda", HostDriver())
    with table.to("cuda") as gpu:
        for mine, theirs in zip(scored(gpu, queries, metric), scored(twin, queries, metric), strict=True):
            assert same(mine, theirs)


@pytest.mark.parametrize("dim", [1, 9, 16, 64, 130])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("compo", {}), ("compo", {"partitions": 4}), ("compo", {"op": "add"}), ("compo", {"op": "concat"}),
        ("robe", {}), ("robe", {"wrap": True, "sign": True, "chunk": 5}), ("adapt", {}), ("adapt", {"map": "hot_ids"}),
        ("int8", {}), ("int16", {}), ("alpt", {}),
    ],
)  # fmt: skip
def test_rows_in_training(name: str, config: Any, dim: int) -> None:
    """Rows have the bits of torch's operations on the device and on the host; gradients are equal up to rounding."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    import embstore.nn as enn
    from embstore.nn import _ops

    host = enn.embedding(name, N, dim, counts=np.random.default_rng(0).zipf(1.5, N).astype(np.float64), **config)
    ids = torch.randint(0, N, (20_000,), generator=torch.Generator().manual_seed(SEED))
    gradient = torch.randn((20_000, dim), generator=torch.Generator().manual_seed(SEED))

    def both(module: Any, device: str) -> tuple[Any, list[Any]]:
        module.zero_grad()
        rows = module(ids.to(device))
        rows.backward(gradient.to(device))
        return rows.detach().cpu(), [p.grad.cpu() for p in module.parameters()]

    want, wanted = both(host, "cpu")
    module = host.to("cuda")
    assert _ops.fused(*module.parameters())
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            rows, gradients = both(module, "cuda")
        torch.cuda.synchronize()
        assert torch.equal(rows, want)
        torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-4)
    with enn.use_fused(False):
        rows, gradients = both(module, "cuda")
    assert torch.equal(rows, want)
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("float32", {}), ("float16", {}), ("bfloat16", {}), ("int16", {}), ("int8", {}), ("int8", {"symmetric": True}),
        ("int8", {"symmetric": True, "step": 0.5}), ("int4", {}), ("int4", {"block_size": 16, "symmetric": True}),
        ("int2", {}), ("nf4", {}), ("dynamic8", {}),
    ],
)  # fmt: skip
def test_encoding_has_the_bytes_of_the_host(name: str, config: Any) -> None:
    from embstore import encoding
    from embstore.cuda import encode
    from embstore.testing import make_rows

    cupy = pytest.importorskip("cupy")
    for dim in (1, 17, 128):
        rows = make_rows(N, dim, SEED, hostile=False)
        rows = np.clip(rows, -60, 60)
        shape = TableShape(N, dim)
        method = registry.get(name)(**config).resolve(shape)
        want = encoding.encode(method, {}, np.arange(N, dtype=np.int64), rows)
        with encode(cupy.asarray(rows), name, **config) as gpu:
            found = gpu.table._stored.shards[0]
            for key, array in want.items():
                assert same(np.asarray(found[key]), array)
            assert same(on_host(gpu.lookup(IDS)), gpu.table.lookup(IDS))
    rows[77, 3] = np.nan
    with pytest.raises(errors.SourceError, match="row 77, column 3"):
        encode(cupy.asarray(rows), name, **config)
