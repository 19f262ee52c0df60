"""The demo's word vectors, on text small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse

from demo import words
from embstore.sources import open_source


def test_identifiers_and_prose_give_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('def readAll(HTTPServer_x):\n    """Close the\\nfile."""\n', encoding="utf-8")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "b.py").write_text("other = 1", encoding="utf-8")
    assert words.read_tokens(tmp_path) == [["def", "read", "all", "http", "server", "close", "the", "file"]]


def test_vocabulary_is_ordered_by_count() -> None:
    assert words.vocabulary([["b", "a", "c"], ["c", "b", "c"]], 2) == ["c", "b"]


def test_cooccurrences_are_symmetric_and_stay_inside_a_file() -> None:
    counts = words.cooccurrences([["a", "b", "c"], ["c", "a"]], ["a", "b", "c"], window=2).toarray()
    # a-b and b-c at distance 1; a-c at distance 2 in the first file and 1 in the second; nothing across the files.
    np.testing.assert_allclose(counts, [[0, 1, 1.5], [1, 0, 1], [1.5, 1, 0]])


def test_ppmi_is_the_formula() -> None:
    counts = np.array([[0, 4, 1], [4, 0, 1], [1, 1, 0]], np.float32)
    contexts = counts.sum(0) ** 0.75
    with np.errstate(divide="ignore"):
        expected = np.log(counts / (counts.sum(1, keepdims=True) * contexts / contexts.sum()))
    found = words.ppmi(sparse.csr_matrix(counts)).toarray()
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-5)


def test_randomized_svd_agrees_with_the_dense_one() -> None:
    rng = np.random.default_rng(0)
    dense = (rng.standard_normal((120, 20)) * 0.8 ** np.arange(20)) @ rng.standard_normal((20, 90))
    dense = dense.astype(np.float32)
    left, values = words.truncated_svd(sparse.csr_matrix(dense), 5, seed=1)
    full = np.linalg.svd(dense.astype(np.float64))
    np.testing.assert_allclose(values, full.S[:5], rtol=1e-4)
    np.testing.assert_allclose(np.abs(full.U[:, :5].T @ left), np.eye(5), atol=1e-3)


def test_the_file_reads_back(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    words.write_word2vec(tmp_path / "w.vec", ["a", "b", "c"], vectors)
    with open_source(tmp_path / "w.vec") as source:
        chunk = next(iter(source.chunks(10)))
    np.testing.assert_allclose(chunk.rows, vectors, rtol=1e-5)
    assert list(chunk.keys) == ["a", "b", "c"]
    assert [p.name for p in tmp_path.iterdir()] == ["w.vec"]
