"""Centroids by FAISS: on how many threads, and that neither threads nor added columns change what is found."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import embstore
from embstore import kmeans
from embstore.testing import make_rows

faiss = pytest.importorskip("faiss")


@pytest.fixture
def threads():
    yield embstore.set_num_threads
    embstore.set_num_threads(None)


def test_faiss_has_no_more_threads_than_embstore(threads):
    before = faiss.omp_get_max_threads()
    threads(1)
    with kmeans.limited("a test") as module:
        assert module.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before
    threads(64)
    with kmeans.limited("a test") as module:
        assert module.omp_get_max_threads() == before
    with kmeans.limited("a test", work=1000) as module:
        assert module.omp_get_max_threads() == 1
    with pytest.raises(ZeroDivisionError), kmeans.limited("a test", work=1000):
        raise ZeroDivisionError
    assert faiss.omp_get_max_threads() == before


def test_items_are_done_in_order_on_the_threads_allowed(threads):
    threads(2)
    seen = set()

    def one(item):
        time.sleep(0.01)
        seen.add((threading.get_ident(), faiss.omp_get_max_threads()))
        return -item

    assert kmeans.on_threads(one, range(12), "a test") == [-i for i in range(12)]
    assert len(seen) <= 2 and {count for _, count in seen} == {1}


@pytest.mark.parametrize("rows", [np.float32([[0, 1]] * 3000), make_rows(4000, 3, hostile=False)])
def test_added_columns_change_nothing_but_rounding(rows, monkeypatch):
    assert kmeans._columns(*rows.shape) > rows.shape[1]
    wide = kmeans.kmeans(rows, 16, 5, "a test")
    found = kmeans.nearest(rows, wide, "a test")
    away = np.square(rows[:, None].astype(np.float64) - wide).sum(axis=2)
    assert np.allclose(away[np.arange(len(rows)), found], away.min(axis=1), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(kmeans, "_MOST_COLUMNS", 0)
    narrow = kmeans.kmeans(rows, 16, 5, "a test")
    assert wide.shape == narrow.shape == (16, rows.shape[1])
    least = np.square(rows[:, None].astype(np.float64) - narrow).sum(axis=2).min(axis=1)
    assert away.min(axis=1).sum() == pytest.approx(least.sum(), rel=0.02, abs=1e-6)


@pytest.mark.parametrize("method", ["opq5,pq5x4", "rq4x4"])
def test_threads_do_not_change_what_is_learned(method, threads, tmp_path):
    rows = make_rows(3000, 12, hostile=False)
    tables = []
    for count in (1, 3):
        threads(count)
        tables.append(embstore.compress(rows, tmp_path / str(count), method))
    assert np.array_equal(*(table.lookup(np.arange(len(rows))) for table in tables))
