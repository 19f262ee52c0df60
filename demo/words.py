"""Word vectors from text that every Python has: the source and docstrings of its standard library.

Counts of words near each other, weighted by positive pointwise mutual information, factored by a randomized truncated
SVD (Levy, Goldberg and Dagan, "Improving Distributional Similarity with Lessons Learned from Word Embeddings", 2015;
Halko, Martinsson and Tropp, "Finding Structure with Randomness", 2011).
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

# The pieces of identifiers and prose alike: `HTTPServer_close` gives http, server, close.
PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
ESCAPE = re.compile(r"\\[a-z]")

Floats = npt.NDArray[np.float32]


def texts(root: Path) -> Iterator[str]:
    """The standard library's source files, in a fixed order, without what was installed beside it."""
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="ignore")


def read_tokens(root: Path | None = None) -> list[list[str]]:
    """Lower-cased words of two letters or more, one list per file."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    return [[w.lower() for w in PIECE.findall(ESCAPE.sub(" ", text)) if len(w) > 1] for text in texts(root)]


def vocabulary(documents: list[list[str]], size: int) -> list[str]:
    """The `size` most frequent words, by count and then by letters."""
    counts: Counter[str] = Counter()
    for words in documents:
        counts.update(words)
    return [w for w, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]]


def cooccurrences(documents: list[list[str]], vocab: list[str], window: int) -> sparse.csr_matrix:
    """Symmetric counts of words at most `window` apart, each weighted by one over the distance."""
    index = {word: i for i, word in enumerate(vocab)}
    size = len(vocab)
    gap = [size] * window  # between files: longer than the window, so that no pair spans two of them
    stream: list[int] = []
    for words in documents:
        stream.extend(index[w] for w in words if w in index)
        stream.extend(gap)
    ids = np.array(stream, np.int32)
    total = sparse.csr_matrix((size + 1, size + 1), dtype=np.float32)
    for distance in range(1, window + 1):
        weights = np.full(len(ids) - distance, 1.0 / distance, np.float32)
        total = total + sparse.coo_matrix((weights, (ids[:-distance], ids[distance:])), total.shape).tocsr()
    counts = total[:size, :size]
    return (counts + counts.T).tocsr()


def ppmi(counts: sparse.csr_matrix, smoothing: float = 0.75) -> sparse.csr_matrix:
    """Positive pointwise mutual information; contexts are smoothed, so that rare ones do not win by being rare."""
    words = np.asarray(counts.sum(axis=1), np.float64).ravel()
    contexts = words**smoothing
    contexts /= contexts.sum()
    matrix = counts.tocoo()
    information = np.log(matrix.data / (words[matrix.row] * contexts[matrix.col]))
    keep = information > 0
    kept = (information[keep].astype(np.float32), (matrix.row[keep], matrix.col[keep]))
    return sparse.coo_matrix(kept, counts.shape).tocsr()


def truncated_svd(matrix: sparse.csr_matrix, rank: int, seed: int, passes: int = 3) -> tuple[Floats, Floats]:
    """Left singular vectors and singular values of the largest `rank`, by a randomized range finder."""
    rng = np.random.default_rng(seed)
    transposed = matrix.T.tocsr()
    basis = matrix @ rng.standard_normal((matrix.shape[1], rank + 32)).astype(np.float32)
    for _ in range(passes):
        basis, _ = np.linalg.qr(basis)
        basis, _ = np.linalg.qr(transposed @ basis)
        basis = matrix @ basis
    basis, _ = np.linalg.qr(basis)
    left, values, _ = np.linalg.svd((transposed @ basis).T, full_matrices=False)
    return (basis @ left)[:, :rank].astype(np.float32), values[:rank].astype(np.float32)


def make(size: int = 20_000, dim: int = 128, window: int = 5, seed: int = 0) -> tuple[list[str], Floats]:
    """Words and their vectors, shape (words, dim), most frequent first."""
    documents = read_tokens()
    vocab = vocabulary(documents, size)
    left, values = truncated_svd(ppmi(cooccurrences(documents, vocab, window)), dim, seed)
    # The square root of the singular values: between letting the first few directions rule and ignoring their size.
    return vocab, left * np.sqrt(values)


def write_word2vec(path: Path, vocab: list[str], vectors: Floats) -> None:
    """Word2vec text, written beside and renamed: an interrupted run leaves no half file to be reused."""
    beside = path.with_name(path.name + ".tmp")
    line = "%s " + " ".join(["%.6g"] * vectors.shape[1]) + "\n"
    with beside.open("w", encoding="utf-8") as file:
        file.write(f"{vectors.shape[0]} {vectors.shape[1]}\n")
        for word, row in zip(vocab, vectors.tolist(), strict=True):
            file.write(line % (word, *row))
    beside.replace(path)
