"""Search over codes against brute force on decoded rows, every kernel, metric and kind of filter."""

import itertools

import numpy as np
import pytest
from truth import METRICS, brute_force

import embstore
from embstore import errors
from embstore.testing import make_rows


def check_found(table, queries, k, metric, found, allowed=None):
    """`found` are the k best to the rounding of float32, in order, with their scores."""
    scores, ids = found
    rows = table.lookup(np.arange(len(table)))
    truth = brute_force(rows, queries, metric)
    if allowed is not None:
        truth[:, ~allowed] = -np.inf
    got = np.take_along_axis(truth, ids, axis=1)
    best = -np.sort(-truth, axis=1)[:, :k]
    scale = np.linalg.norm(queries, axis=1).max() * max(1.0, float(np.linalg.norm(rows, axis=1).max()))
    tolerance = 1e-5 * (scale**2 if metric == "l2" else scale if metric == "ip" else 1.0)
    np.testing.assert_allclose(got, best, rtol=1e-5, atol=tolerance)
    np.testing.assert_allclose(-scores if metric == "l2" else scores, got, rtol=1e-4, atol=tolerance)
    assert all(len(set(row)) == k for row in ids.tolist())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "spec",
    [
        "float32",
        "int8",
        "int4",
        "center,int8",
        "pca,rotate,nf4",
        "truncate16,int8",
        "svd",
        "center,svd9",
        "tt",
        "subspace",
        "pq",
        "center,pq11x4",
        "rq2x4",
        "rq2",
    ],
)
def test_finds_the_nearest(spec, metric, tmp_path):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((3000, 33)) * rng.uniform(0.5, 2, (3000, 1)) + 0.2).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", spec)
    queries = rng.standard_normal((70, table.embedding_dim), dtype=np.float32)
    check_found(table, queries, 10, metric, table.search(queries, 10, metric))
    reference = embstore.Table(table._stored, backend="numpy")
    assert np.array_equal(reference.search(queries[:5], 10, metric)[1], table.search(queries[:5], 10, metric)[1])
    one = table.search(queries[3], 7, metric)
    assert one[0].shape == one[1].shape == (7,)
    assert np.array_equal(one[1], table.search(queries, 7, metric)[1][3])


def test_any_number_of_threads_and_shards(tmp_path):
    rows = make_rows(5000, 16, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", "int8")
    queries = make_rows(9, 16, 1, hostile=False)
    found = []
    for threads in (1, 3):
        embstore.set_num_threads(threads)
        found.append(table.search(queries, 20, "cosine"))
    embstore.set_num_threads(None)
    assert np.array_equal(found[0][1], found[1][1]) and np.array_equal(found[0][0], found[1][0])


@pytest.mark.parametrize("metric", METRICS)
def test_filters(metric, tmp_path):
    rows = make_rows(2000, 20, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", "int8")
    queries = make_rows(6, 20, 1, hostile=False)
    allowed = np.zeros(2000, bool)
    allowed[np.random.default_rng(0).choice(2000, 300, replace=False)] = True
    by_mask = table.search(queries, 10, metric, filter=allowed)
    check_found(table, queries, 10, metric, by_mask, allowed)
    by_ids = table.search(queries, 10, metric, filter=np.flatnonzero(allowed)[::-1])
    assert np.array_equal(by_mask[1], by_ids[1])
    scores, ids = table.search(queries, 5, metric, filter=[7, 3])
    assert set(ids[0, :2]) == {3, 7} and (ids[:, 2:] == -1).all() and np.isnan(scores[:, 2:]).all()


def test_equal_scores_go_by_id_and_odd_rows_are_never_found(tmp_path):
    rows = np.ones((100, 8), np.float32)
    rows[5], rows[6] = np.nan, 0
    table = embstore.compress(rows, tmp_path / "t", "float32", nonfinite="keep")
    for metric in METRICS:
        _, ids = table.search(np.ones(8, np.float32), 7, metric)
        assert ids.tolist() == [0, 1, 2, 3, 4, 7, 8]
    _, ids = table.search(np.ones(8, np.float32), 100, "ip")
    assert ids[-1] == -1 and ids[-2] == 6 and 5 not in ids


@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_a_rerank_that_are_not_finite_are_never_found(tmp_path, metric):
    rows = make_rows(50, 8, hostile=False)
    finer = rows.copy()
    finer[4:, 2], finer[:4, 3] = np.nan, 1.0
    finer[3] = np.inf
    table = embstore.compress(rows, tmp_path / "t", "int8")
    scores, ids = table.search(np.ones(8, np.float32), 5, metric, rerank=finer, rerank_k=50)
    assert sorted(ids[:3].tolist()) == [0, 1, 2] and ids[3:].tolist() == [-1, -1]
    assert np.isnan(scores[3:]).all() and np.isfinite(scores[:3]).all()


def test_tables_of_few_rows(tmp_path):
    for n in (1, 2, 17, 257):
        table = embstore.compress(make_rows(n, 5, hostile=False), tmp_path / str(n), "int8")
        for k, metric in itertools.product((1, n), METRICS):
            check_found(table, make_rows(3, 5, 1, False), k, metric, table.search(make_rows(3, 5, 1, False), k, metric))


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"queries": np.zeros((2, 5))}, errors.ShapeError, "must have shape"),
        ({"queries": np.full(4, np.nan)}, errors.ShapeError, "query 0"),
        ({"queries": ["a", "b"]}, errors.ShapeError, "must be floats"),
        ({"queries": [[1.0, 2.0, 3.0, 4.0], [1.0]]}, errors.ShapeError, "must all have 4 values"),
        ({"queries": np.full((1, 4), 1e300)}, errors.ShapeError, "more than float32 holds in query 0"),
        ({"queries": np.zeros((1, 1, 4))}, errors.ShapeError, "must have shape"),
        ({"k": 0}, errors.ConfigError, "positive integer"),
        ({"k": 51}, errors.ConfigError, "at most the 50 rows"),
        ({"k": 2.0}, errors.ConfigError, "positive integer"),
        ({"metric": "dot"}, errors.ConfigError, "'cosine', 'ip' or 'l2'"),
        ({"filter": np.zeros(50, bool)}, errors.ConfigError, "leave at least one row"),
        ({"filter": []}, errors.ConfigError, "leave at least one row"),
        ({"filter": np.zeros(49, bool)}, errors.ShapeError, "filter mask"),
        ({"filter": [50]}, errors.IdRangeError, "from 0 to 49"),
        ({"filter": [-1]}, errors.IdRangeError, "found -1"),
        ({"filter": [0.5]}, errors.IdTypeError, "bool mask or integer ids"),
    ],
)
def test_refused(arguments, kind, text, tmp_path):
    table = embstore.compress(make_rows(50, 4, hostile=False), tmp_path / "t", "int8")
    with pytest.raises(kind, match=text):
        table.search(**{"queries": np.zeros((2, 4), np.float32), "k": 3, **arguments})
