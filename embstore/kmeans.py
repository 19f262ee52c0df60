"""Centroids by FAISS, whatever the rows are: too few, not finite, all alike."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .optional import faiss

F32 = npt.NDArray[np.float32]

# Rows a centroid is learned from, at most, as FAISS has it: more buy less than a thousandth of the error.
ROWS_PER_CENTROID = 256


def finite_rows(rows: F32) -> F32:
    """The rows without NaN and infinities: what centroids are learned from."""
    keep = np.isfinite(rows).all(axis=1)
    return rows if keep.all() else rows[keep]


def kmeans(rows: F32, count: int, seed: int, what: str, iterations: int = 25, start: F32 | None = None) -> F32:
    """`count` centroids (count, dim) of finite rows (n, dim), from those of `start` if given.

    Fewer rows than centroids: the rows themselves, repeated in order; no rows: zeros. Deterministic by seed.
    """
    n, dim = rows.shape
    if n <= count:
        return np.resize(rows, (count, dim)).astype(np.float32) if n else np.zeros((count, dim), np.float32)
    clustering = faiss(f"fitting {what}").Kmeans(
        dim, count, niter=iterations, seed=seed, min_points_per_centroid=1, max_points_per_centroid=ROWS_PER_CENTROID
    )
    clustering.train(np.ascontiguousarray(rows), init_centroids=start)
    centroids: F32 = np.nan_to_num(clustering.centroids.reshape(count, dim)).astype(np.float32)
    return centroids


def kmeans_each(parts: Sequence[F32], count: int, seed: int, what: str) -> list[F32]:
    """`kmeans` of each part, on as many threads as FAISS has, one to a part.

    FAISS's own would meet after every step, and steps of narrow parts are short.
    """
    threads = min(len(parts), faiss(f"fitting {what}").omp_get_max_threads())

    def one(part: F32) -> F32:
        return kmeans(part, count, seed, what)

    def alone() -> None:
        faiss(f"fitting {what}").omp_set_num_threads(1)  # of this thread only

    with ThreadPoolExecutor(threads, "embstore-kmeans", initializer=alone) as pool:
        return list(pool.map(one, parts))


def nearest(rows: F32, centroids: F32, what: str) -> npt.NDArray[np.int64]:
    """The nearest centroid of each row, fast and with FAISS's rounding: for fitting, not for encoding."""
    _, found = faiss(f"fitting {what}").knn(np.ascontiguousarray(rows), np.ascontiguousarray(centroids), 1)
    return np.maximum(found[:, 0], 0).astype(np.int64)  # type: ignore[no-any-return]


def even_slices(dim: int, m: int) -> list[tuple[int, int]]:
    """First and last column (exclusive) of m slices of `dim` values, as even as can be."""
    return [(s * dim // m, (s + 1) * dim // m) for s in range(m)]
