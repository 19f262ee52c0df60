"""Scores in integers, by the kernels for CUDA on the host: those of the host's own integer scorers, to the bit."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import registry
from embstore.arrays import Arrays, TableShape
from embstore.cuda import GpuTable, driver, to_device
from embstore.testing import make_rows
from embstore.testing.laws import same

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from in_memory import table_of as table_of_arrays
from test_gpu_search import METRICS, exact
from test_gpu_search import check as check_hits

from embstore.cuda.coded import coded, in_integers, projected
from embstore.cuda.search import _Asked, _Scan

CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("int8", {}),
    ("int8", {"symmetric": True}),
    ("int8", {"symmetric": True, "scale_dtype": "float32", "block_size": 16}),
    ("int8", {"block_size": 32}),
    ("int4", {}),
    ("int4", {"block_size": 16}),
    ("int4", {"symmetric": True}),
    ("binary", {}),
    ("binary", {"scale_dtype": None}),
    *[("rabitq", {"bits": bits}) for bits in range(1, 9)],
]


@pytest.fixture(autouse=True)
def plain_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CuPy, and the host's scorers without fused sums and with queries of 7 bits and a sign."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setenv("EMBSTORE_ISA", "ref")


def scored(gpu: GpuTable, queries: Any, metric: str) -> tuple[Any, Any]:
    """Scores in integers of every row, best first, and ids."""
    n, rows, table = len(queries), len(gpu), gpu.table
    given, block = (table._method, table._stored.shared, queries), gpu._open.bound.coded_block()
    some = coded(*given, block) if in_integers(table._method) else projected(*given)
    at = gpu._driver.allocate(0, queries.nbytes)
    gpu._driver.copy_in(0, at, queries.reshape(-1).view(np.uint8), 0)
    with contextlib.ExitStack() as done:
        scan = _Scan(gpu._driver, gpu, 0, None, _Asked(queries.shape[1], n, rows, rows, METRICS.index(metric)), done)
        scan.begin(at, n, 0, rows, norms=metric != "ip")
        scan.start(0, n, some)
        while scan.lost():
            scan.run(first=False)
        best = np.empty((n, rows), np.uint64)
        place = driver.extension().room_parts(n, rows)[0]
        gpu._driver.copy_out(0, best.reshape(-1).view(np.uint8), scan._room + place, 0)
    ordered = (best >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & 0x80000000, ordered & 0x7FFFFFFF, ~ordered).astype(np.uint32)
    return bits.view(np.float32), (0xFFFFFFFF - (best & np.uint64(0xFFFFFFFF))).astype(np.int64)


def table_of(name: str, config: dict[str, Any], rows: Any, path: Path) -> tuple[embstore.Table, GpuTable]:
    table = embstore.compress(rows, path, name, **config)
    gpu = to_device(table, "cuda", HostDriver())
    assert isinstance(gpu, GpuTable)
    return table, gpu


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 31, 64, 130])
@pytest.mark.parametrize(("name", "config"), CONFIGS, ids=str)
def test_rows_are_in_the_order_of_the_host(
    name: str, config: dict[str, Any], dim: int, metric: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(dim)
    rows = (rng.standard_normal((333, dim)) * rng.uniform(0.1, 3, (333, 1)) + 0.3).astype(np.float32)
    table, gpu = table_of(name, config, rows, tmp_path / "t")
    queries = rng.standard_normal((19, dim)).astype(np.float32)
    queries[0], queries[1] = 0, 1
    _, ids = scored(gpu, queries, metric)
    assert same(ids, table._scan(queries, 333, metric, None))


TABLES: list[tuple[int, dict[str, Any]]] = [
    (64, {"m": 4}),
    (64, {"m": 8, "bits": 8}),
    (40, {"m": 5, "bits": 4}),
    (130, {"m": 16, "bits": 4}),
    (50, {"m": 3, "bits": 8}),
    (50, {"m": 6, "bits": 5}),
    (33, {"m": 2, "bits": 11}),
    (24, {"m": 1, "bits": 1}),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dim", "config"), TABLES, ids=str)
def test_bounds_by_tables_are_those_of_the_host(
    dim: int, config: dict[str, Any], metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host scores again what its bounds let through, so that these are compared with what they are said to be."""
    table, gpu = random_codes(dim, config)
    assert gpu._open.bound.table_entries() == config["m"] << config.get("bits", 8)
    queries = np.random.default_rng(dim).standard_normal((19, dim)).astype(np.float32)
    found, ids = scored(gpu, queries, metric)
    products = bounds(table, queries)
    squares = np.square(table.lookup(np.arange(len(table))).astype(np.float64)).sum(axis=1).astype(np.float32)
    if metric == "cosine":
        lengths = np.sqrt(squares)
        products = products * np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    elif metric == "l2":
        products = products + squares * np.float32(-0.5)
    assert same(found, np.take_along_axis(products, ids, axis=1))
    assert (np.sort(ids, axis=1) == np.arange(len(table))).all()
    exact = queries.astype(np.float64) @ table.lookup(np.arange(len(table))).astype(np.float64).T
    assert (bounds(table, queries) >= exact).all()


def random_codes(dim: int, config: dict[str, Any], rows: int = 333) -> tuple[embstore.Table, GpuTable]:
    """A table of product codes and centroids that are random: no fit, and every code occurs."""
    shape, rng = TableShape(rows, dim), np.random.default_rng(dim)
    method = registry.get("pq")(**config).resolve(shape)
    specs = {s.name: s for s in method.layout(shape)}
    arrays = {"codes": rng.integers(0, 256, (rows, *specs["codes"].row_shape)).astype(specs["codes"].dtype)}
    shared = {
        name: rng.standard_normal(spec.sizes()).astype(spec.dtype)
        for name, spec in specs.items()
        if spec.partition == "shared"
    }
    table = table_of_arrays(method, shape, [Arrays(arrays)], 512, shared)
    gpu = to_device(table, "cuda", HostDriver())
    assert isinstance(gpu, GpuTable)
    return table, gpu


def bounds(table: embstore.Table, queries: Any) -> Any:
    """What csrc/search/_tables.h says, in numpy: sums of rounded products, what they lose added again."""
    method, dim = table._method, queries.shape[1]
    m, bits = method.config()["m"], method.config()["bits"]
    top = min(255, 65535 // m) if bits == 4 else 65535 // m
    tables = method.constants(table._stored.shared)["tables"].reshape(-1)
    packed = np.unpackbits(np.asarray(table._stored.shards[0]["codes"]).view(np.uint8), axis=1, bitorder="little")
    codes = packed[:, : m * bits].reshape(-1, m, bits) @ (1 << np.arange(bits))
    found = np.empty((len(queries), len(table)), np.float32)
    for q, query in enumerate(queries):
        products = []
        for s in range(m):
            first, end = s * dim // m, (s + 1) * dim // m
            own = tables[first << bits : end << bits].reshape(1 << bits, end - first)
            sums = np.zeros(1 << bits, np.float32)
            for j in range(end - first):
                sums = sums + query[first + j] * own[:, j]
            products.append(sums)
        low = [p.min() for p in products]
        step = max(p.max() - p.min() for p in products) / np.float32(top)
        size = np.float32(0)
        for p in products:
            size = size + max(abs(p.min()), abs(p.max()))
        inverse = np.float32(1) / step
        integers = [
            np.minimum(top, ((p - at) * inverse + np.float32(0.5)).astype(np.int64))
            for p, at in zip(products, low, strict=True)
        ]
        offset = 0.0
        for p, i, at in zip(products, integers, low, strict=True):
            offset += float(at) + float(max(np.float32(0), (p - (at + i.astype(np.float32) * step)).max()))
        offset += float(size) * (m + 8) * 2.0**-23 + 2.0**-145
        total = sum(integers[s][codes[:, s]] for s in range(m))
        found[q] = total.astype(np.float32) * step + np.float32(offset)
    return found


@pytest.mark.parametrize("metric", METRICS)
def test_candidates_by_tables_are_scored_from_their_values(metric: str) -> None:
    for dim, config in TABLES[:4]:
        table, gpu = random_codes(dim, config)
        queries = np.random.default_rng(3).standard_normal((21, dim)).astype(np.float32)
        found, ids = (a.numpy() for a in gpu.search(queries, 20, metric))
        want, wanted = (a.numpy() for a in gpu.search(queries, 20, metric, exact=True))
        assert same(found, want) and same(ids, wanted)
        assert same(ids, table.search(queries, 20, metric)[1])


def test_tables_are_for_long_slices_that_fit_a_block() -> None:
    for dim, config in ((32, {"m": 8}), (256, {"m": 32}), (64, {"m": 2, "bits": 12})):
        assert random_codes(dim, config)[1]._open.bound.table_entries() == 0


def test_products_that_overflow_find_nothing() -> None:
    _, gpu = random_codes(64, {"m": 4})
    queries = np.stack([np.full(64, 3e38, np.float32), np.zeros(64, np.float32), np.ones(64, np.float32)])
    ids = gpu.search(queries, 3, "ip")[1].numpy()
    assert (ids[0] == -1).all() and (ids[1:] >= 0).all()


def uniform_scores(table: embstore.Table, queries: Any) -> Any:
    """What csrc/search/_integer.h says, in numpy, of int8 rows of one block."""
    arrays = table._stored.shards[0]
    codes = np.asarray(arrays["codes"]).astype(np.int64)
    scale, offset = np.asarray(arrays["affine"]).reshape(len(codes), 2).astype(np.float32).T
    top = np.abs(queries).max(axis=1)
    integers = np.rint(queries.astype(np.float64) * (127 / top.astype(np.float64))[:, None]).astype(np.int64)
    sums = (integers @ codes.T).astype(np.float32)
    totals = scale * sums + offset * integers.sum(axis=1).astype(np.float32)[:, None]
    return totals * (top / np.float32(127))[:, None]


def grid_scores(table: embstore.Table, queries: Any) -> Any:
    """What csrc/search/_packed.h says, in numpy, of binary rows with a scale; sums every 1,024 columns."""
    arrays = table._stored.shards[0]
    codes = np.unpackbits(np.asarray(arrays["codes"]).view(np.uint8), axis=1, bitorder="little")
    codes = codes[:, : queries.shape[1]].astype(np.int64)
    scale = np.asarray(arrays["scale"]).astype(np.float32).reshape(-1)
    top = np.abs(queries).max(axis=1)[:, None]
    integers = np.rint(queries / top * np.float32(127)).astype(np.int64)
    totals = np.zeros((len(queries), len(codes)), np.float32)
    for c in range(0, queries.shape[1], 1024):
        totals += (integers[:, c : c + 1024] @ codes[:, c : c + 1024].T).astype(np.float32)
    shift = np.float32(-0.5) * integers.sum(axis=1).astype(np.float32)[:, None]
    return (totals + shift) * (top / np.float32(127) * np.float32(2)) * scale


@pytest.mark.parametrize(
    ("name", "dim", "want"),
    [("int8", 100, uniform_scores), ("binary", 100, grid_scores), ("binary", 1390, grid_scores)],
)
def test_scores_to_the_bit(name: str, dim: int, want: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows, queries = (rng.standard_normal((n, dim)).astype(np.float32) for n in (200, 5))
    table, gpu = table_of(name, {}, rows, tmp_path / "t")
    found, ids = scored(gpu, queries, "ip")
    assert same(found, np.take_along_axis(want(table, queries), ids, axis=1))


@pytest.mark.parametrize("pipeline", ["rotate,rabitq", "center,rotate,binary", "pca16,int8"])
def test_transforms_pass_to_the_query(pipeline: str, tmp_path: Path) -> None:
    rows, queries = make_rows(400, 32, hostile=False), make_rows(9, 32, 1, hostile=False)
    table, gpu = table_of(pipeline, {}, rows, tmp_path / "t")
    for metric in METRICS:
        assert same(scored(gpu, queries, metric)[1], table._scan(queries, 400, metric, None))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["int8", "int4", "rabitq", "rotate,rabitq"])
def test_candidates_are_scored_from_their_values(name: str, metric: str, tmp_path: Path) -> None:
    """With as many candidates as rows the hits are those of exact scores, with their very bits."""
    rng = np.random.default_rng(3)
    table, gpu = table_of(name, {}, rng.standard_normal((120, 40)).astype(np.float32), tmp_path / "t")
    queries = rng.standard_normal((7, 40)).astype(np.float32)
    for k in (30, 120):
        found, ids = (a.numpy() for a in gpu.search(queries, k, metric))
        want, wanted = (a.numpy() for a in gpu.search(queries, k, metric, exact=True))
        assert same(found, want) and same(ids, wanted)
    check_hits(gpu.search(queries, 30, metric), exact(table.lookup(np.arange(120)), queries, metric), metric, 30)


def test_few_candidates_are_nearly_the_best(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((20_000, 24)).astype(np.float32)
    queries = rng.standard_normal((40, 24)).astype(np.float32)
    for name in ("int8", "rotate,rabitq"):
        _, gpu = table_of(name, {}, rows, tmp_path / name)
        found, want = (gpu.search(queries, 10, exact=e)[1].numpy() for e in (False, True))
        hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), want.tolist(), strict=True))
        assert hits >= 398 and not same(found, np.zeros_like(found))


def test_filters_wide_rows_and_rows_that_are_never_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((300, 8)).astype(np.float32)
    rows[3], rows[4, 2] = 0, np.nan
    table = embstore.compress(rows, tmp_path / "t", "int8", nonfinite="keep")
    gpu = to_device(table, "cuda", HostDriver())
    assert isinstance(gpu, GpuTable)
    queries = rng.standard_normal((2, 8)).astype(np.float32)
    mask = rng.random(300) < 0.1
    mask[4] = True
    for metric in METRICS:
        scores = np.where(mask, exact(table.lookup(np.arange(300)), queries, metric), -np.inf)
        found = gpu.search(queries, 100, metric, filter=mask)
        with np.errstate(invalid="ignore"):
            check_hits(found, scores, metric, 100)
        assert 4 not in found[1].numpy()
    queries[1] = 0
    want = table.search(queries, 5)
    found, _ = (a.numpy() for a in gpu.search(queries, 5))
    assert np.allclose(found, want[0], rtol=1e-5, atol=1e-6) and (found[1] == 0).all()


def test_queries_of_the_device_that_are_not_finite_find_nothing(tmp_path: Path) -> None:
    from test_gpu_table import OnDevice

    host = HostDriver()
    rows = np.random.default_rng(6).standard_normal((100, 8)).astype(np.float32)
    gpu = to_device(embstore.compress(rows, tmp_path / "t", "int8"), "cuda", host)
    assert isinstance(gpu, GpuTable)
    queries = np.stack([rows[0], np.full(8, np.nan, np.float32), np.full(8, np.inf, np.float32)])
    for metric in METRICS:
        _, ids = gpu.search(OnDevice(host, queries), 3, metric)
        assert (ids.numpy()[1:] == -1).all()
        assert (ids.numpy()[0] >= 0).all()


def test_norms_are_those_of_the_host_and_made_once(tmp_path: Path) -> None:
    rows = make_rows(700, 33, hostile=False)
    table, gpu = table_of("int8", {}, rows, tmp_path / "t")
    before = gpu.nbytes
    gpu.search(rows[:2], 3, "ip")
    assert gpu.nbytes == before
    gpu.search(rows[:2], 3, "l2")
    assert gpu.nbytes == before + 4 * 700 + 64
    found = driver.bytes_at(gpu._open.squares(33, 0), 4 * 700).view(np.float32)
    assert same(found.copy(), table._scan._squared_norms)
    assert gpu.nbytes == before + 4 * 700 + 64


def test_who_is_scored_in_integers() -> None:
    for name in driver.extension().methods():
        assert in_integers(registry.get(name)()) == (name in ("int8", "int4", "rabitq", "binary"))
