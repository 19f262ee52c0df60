"""Search on a device, with the host in its place: against scores in float64 of rows as the host looks them up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import errors
from embstore.cuda import GpuTable, driver, to_device

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from in_memory import table_of
from pair import encoded

from embstore.arrays import Arrays, TableShape
from embstore.method import RowMethod

METRICS = ("cosine", "ip", "l2")


def table_from(rows: Any, path: Path, method: str = "float32") -> tuple[embstore.Table, GpuTable]:
    table = embstore.compress(np.asarray(rows, np.float32), path, method, nonfinite="keep")
    gpu = to_device(table, "cuda", HostDriver())
    assert isinstance(gpu, GpuTable)
    return table, gpu


@pytest.fixture(autouse=True)
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


def exact(rows: Any, queries: Any, metric: str) -> Any:
    """Scores (n, rows), larger nearer, in float64; -inf for rows that are never found."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    with np.errstate(all="ignore"):
        scores = -np.square(rows - queries[:, None]).sum(axis=2) if metric == "l2" else queries @ rows.T
        if metric == "cosine":
            sizes = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
            scores = np.divide(scores, sizes, out=np.zeros_like(scores), where=sizes > 0)
    return np.where(np.isfinite(scores) & np.isfinite(rows).all(axis=1), scores, -np.inf)


def check(found: tuple[Any, Any], scores: Any, metric: str, k: int) -> None:
    """The hits are the k best of `scores` but for rounding, best first, and D is their score."""
    d, i = (a.numpy() for a in found)
    assert d.shape == i.shape == (len(scores), k)
    best = -np.sort(-scores, axis=1)[:, :k]
    there = np.isfinite(best)
    assert (i[~there] == -1).all() and np.isnan(d[~there]).all()
    signed = -d if metric == "l2" else d
    own = np.take_along_axis(scores, np.maximum(i, 0), axis=1)
    scale = np.abs(best[there]).max(initial=1e-30)
    assert np.abs((signed - own)[there]).max(initial=0) <= 1e-5 * scale
    assert np.abs((own - best)[there]).max(initial=0) <= 1e-5 * scale
    for row, line in zip(i, there, strict=True):
        assert len(set(row[line])) == line.sum()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", ["float32", "float16", "int8", "int4", "int2", "nf4", "pq", "tt"])
def test_hits_are_the_best(tmp_path: Path, method: str, metric: str) -> None:
    rng = np.random.default_rng(0)
    table, gpu = table_from(rng.standard_normal((700, 40)), tmp_path / "t", method)
    rows = table.lookup(np.arange(700))
    for n, k in ((1, 1), (5, 10), (20, 700)):
        queries = rng.standard_normal((n, 40)).astype(np.float32)
        check(gpu.search(queries, k, metric), exact(rows, queries, metric), metric, k)


@pytest.mark.parametrize("dim", [1, 3, 8, 17, 50, 64, 130])
@pytest.mark.parametrize("method", ["float16", "int8", "pq"])
def test_rows_of_any_width(method: str, dim: int) -> None:
    from embstore import registry

    shape = TableShape(90, dim)
    chosen: RowMethod = registry.get(method)().resolve(shape)
    arrays, shared = encoded(chosen, shape)
    table = table_of(chosen, shape, [Arrays(arrays)], 128, shared)
    gpu = to_device(table, "cuda", HostDriver())
    assert isinstance(gpu, GpuTable)
    with np.errstate(all="ignore"):
        rows = table.lookup(np.arange(90))
        queries = rows[20:40]
        for metric in METRICS:
            check(gpu.search(queries, 5, metric), exact(rows, queries, metric), metric, 5)


def test_samples_bound_what_a_larger_scan_lets_through(tmp_path: Path) -> None:
    """More rows than a list has room for; k larger than what is sorted at once."""
    rng = np.random.default_rng(1)
    table, gpu = table_from(rng.standard_normal((20_000, 6)), tmp_path / "t", "int8")
    rows, queries = table.lookup(np.arange(20_000)), rng.standard_normal((3, 6)).astype(np.float32)
    for k in (10, 1500):
        check(gpu.search(queries, k, "ip"), exact(rows, queries, "ip"), "ip", k)


def test_equal_scores_come_by_id(tmp_path: Path) -> None:
    table, gpu = table_from(np.ones((20_000, 4)), tmp_path / "t")
    _, ids = gpu.search(np.ones((2, 4), np.float32), 50, "cosine")
    assert (ids.numpy() == np.arange(50)).all()
    del table


def test_a_scan_that_loses_hits_is_run_again(tmp_path: Path) -> None:
    """The sample, every third row, is far from the best 13,000: more than a list holds."""
    rows = np.random.default_rng(2).standard_normal((20_000, 4)).astype(np.float32)
    rows[np.arange(20_000) % 3 != 0] += 100
    table, gpu = table_from(rows, tmp_path / "t")
    queries = np.ones((17, 4), np.float32)
    waits = gpu._driver.waits  # type: ignore[attr-defined]
    check(gpu.search(queries, 20, "ip"), exact(rows, queries, "ip"), "ip", 20)
    assert gpu._driver.waits > waits + 3  # type: ignore[attr-defined]  # one look at what was lost, more scans, two results
    del table


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_never_found(tmp_path: Path, metric: str) -> None:
    rows = np.random.default_rng(3).standard_normal((30, 5)).astype(np.float32)
    rows[3], rows[4, 2], rows[5, 1], rows[6] = 0, np.nan, np.inf, -np.inf
    queries = np.stack([rows[0], np.zeros(5, np.float32)])
    table, gpu = table_from(rows, tmp_path / "t")
    found = gpu.search(queries, 30, metric)
    check(found, exact(rows, queries, metric), metric, 30)
    assert not {4, 5, 6} & set(found[1].numpy().ravel().tolist())
    own, ids = table.search(queries, 30, metric)
    assert np.allclose(found[0].numpy(), own, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert np.array_equal(np.sort(found[1].numpy()), np.sort(ids))


def test_filters(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows, queries = rng.standard_normal((300, 8)).astype(np.float32), rng.standard_normal((2, 8)).astype(np.float32)
    table, gpu = table_from(rows, tmp_path / "t")
    mask = rng.random(300) < 0.1
    scores = np.where(mask, exact(rows, queries, "l2"), -np.inf)
    for filter in (mask, np.flatnonzero(mask)):
        check(gpu.search(queries, 100, "l2", filter=filter), scores, "l2", 100)
    del table


def test_one_query_and_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((300, 8)).astype(np.float32)
    _, gpu = table_from(rows, tmp_path / "t")
    d, i = gpu.search(rows[7], 3, "l2")
    assert (d.shape, i.shape) == ((3,), (3,))
    assert i.numpy()[0] == 7 and d.numpy()[0] == 0
    queries = rng.standard_normal((300, 8)).astype(np.float32)  # three batches
    check(gpu.search(queries, 4, "cosine"), exact(rows, queries, "cosine"), "cosine", 4)
    assert gpu.search(np.empty((0, 8), np.float32), 4)[0].shape == (0, 4)
    held = len(gpu._driver.held)  # type: ignore[attr-defined]
    del d, i
    assert len(gpu._driver.held) == held - 2 == 2  # type: ignore[attr-defined]  # values and faults


def test_what_cannot_be_searched(tmp_path: Path) -> None:
    _, gpu = table_from(np.ones((50, 8)), tmp_path / "t")
    query = np.ones(8, np.float32)
    with pytest.raises(errors.ConfigError, match="metric must be"):
        gpu.search(query, 3, "dot")
    for k in (0, 51, True, "x"):
        with pytest.raises(errors.ConfigError, match="k must be from 1 to 50 for this table on a GPU, found"):
            gpu.search(query, k)  # type: ignore[arg-type]
    with pytest.raises(errors.ShapeError, match="queries must have shape"):
        gpu.search(np.ones(7, np.float32))
    with pytest.raises(errors.ShapeError, match="queries must be finite"):
        gpu.search(np.full(8, np.nan, np.float32))
    with pytest.raises(errors.ConfigError, match="a filter must leave at least one row"):
        gpu.search(query, filter=np.zeros(50, bool))
    _, wide = table_from(np.ones((4, 1500)), tmp_path / "wide")
    with pytest.raises(errors.ConfigError, match="rows of at most 1,400 values"):
        wide.search(np.ones(1500, np.float32), 1)
