"""Methods side by side."""

import numpy as np
import pytest

import embstore
from embstore import compare, errors
from embstore.compare import Comparison, front
from embstore.testing import make_rows


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((50, 24))
    return (centers[rng.integers(0, 50, 3000)] + 0.5 * rng.standard_normal((3000, 24))).astype(np.float32)


def test_figures(rows):
    results = compare.compare(rows, ["float32", "int8", "int2", "truncate8,int8"], queries=100)
    exact, int8, int2, cut = results
    assert exact.error == 0 and exact.recall == 1.0 and exact.bits_per_value == 32
    assert int8.nbytes == int8.nbytes_whole == 3000 * 28
    assert 0 < int8.error < 1e-3 < int2.error
    assert 0.9 < int8.recall <= 1.0 and int2.recall < int8.recall
    assert cut.error is None and 0 < cut.recall < 1
    assert all(r.lookup_ratio > 0 and r.compress_seconds > 0 for r in results)
    assert {r.method for r in front(results)} >= {"float32", "int8"}


def test_recall_is_what_brute_force_says(rows):
    (found,) = compare.compare(rows, ["int4"], queries=3000, k=5)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similar = units @ units.T
    np.fill_diagonal(similar, -2)
    truth = np.argsort(-similar, axis=1)[:, :5]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        decoded = embstore.compress(rows, f"{folder}/t", "int4").lookup(np.arange(3000))
    similar = units @ (decoded / np.linalg.norm(decoded, axis=1, keepdims=True)).T
    np.fill_diagonal(similar, -2)
    got = np.argsort(-similar, axis=1)[:, :5]
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(truth.tolist(), got.tolist(), strict=True)])
    assert found.recall == pytest.approx(recall, abs=0.002)


def test_a_sample_predicts_the_whole(rows):
    (found,) = compare.compare(rows, ["int8"], max_rows=500, queries=50)
    assert found.nbytes == 500 * 28 and found.nbytes_whole == 3000 * 28


def test_a_method_that_fails_is_named(rows):
    good, bad = compare.compare(rows, ["int8", "pca99,int8"], queries=10)
    assert good.failure is None and "at most the 24 values" in bad.failure and bad.error is None


def test_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match="at least 11 rows"):
        compare.compare(make_rows(10, 4, hostile=False))
    bad = make_rows(100, 4, hostile=False)
    bad[50, 1] = np.nan
    with pytest.raises(errors.SourceError, match="row 50"):
        compare.compare(bad)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    results = [Comparison("a", 10, 8.0, 10, 1e-4, 0.9, 1.0, 0.1), Comparison("b", failure="no")]
    compare.plot(results, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
