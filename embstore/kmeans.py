"""Centroids by FAISS, whatever the rows are: too few, not finite, all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import threads
from .optional import faiss

T = TypeVar("T")
U = TypeVar("U")
F32 = npt.NDArray[np.float32]

# Rows a centroid is learned from, at most, as FAISS has it: more buy less than a thousandth of the error.
ROWS_PER_CENTROID = 256
# Multiplications of a step of k-means, at least, for more than one thread: FAISS's threads meet after every step and
# spin while they wait, which costs more than a short step, and much more where other processes want the cores.
_SHARED_WORK = 1 << 27
# Values that FAISS 1.15 must search at once to take its fast kernel; measured: of 120,000 it does not, of 128,000 it
# does, and is up to ten times as fast, whatever the number of centroids is. Rows are not made wider than this for it.
_FAST_VALUES, _MOST_COLUMNS = 1 << 17, 64


@contextmanager
def limited(what: str, work: int = _SHARED_WORK) -> Iterator[Any]:
    """The faiss module, on no more threads than embstore uses, as long as this thread is within.

    `work` is the multiplications of a step: of few it has one thread.
    """
    module = faiss(f"fitting {what}")
    before = module.omp_get_max_threads()
    module.omp_set_num_threads(min(before, threads.get_num_threads()) if work >= _SHARED_WORK else 1)
    try:
        yield module
    finally:
        module.omp_set_num_threads(before)


def on_threads(call: Callable[[T], U], items: Iterable[T], what: str) -> list[U]:
    """`call` of each item, in order, on the threads that `limited` allows; FAISS has one thread in each."""
    with limited(what) as module:
        count = module.omp_get_max_threads()

    def alone() -> None:
        faiss(f"fitting {what}").omp_set_num_threads(1)  # of this thread only

    with ThreadPoolExecutor(count, "embstore-kmeans", initializer=alone) as pool:
        return list(pool.map(call, items))


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
    used = min(n, ROWS_PER_CENTROID * count)
    wide = _columns(used, dim)
    with limited(what, used * count * wide) as module:
        clustering = module.Kmeans(
            wide, count, niter=iterations, seed=seed, min_points_per_centroid=1,
            max_points_per_centroid=ROWS_PER_CENTROID,
        )  # fmt: skip
        clustering.train(_padded(rows, wide), init_centroids=None if start is None else _padded(start, wide))
    centroids: F32 = np.nan_to_num(clustering.centroids.reshape(count, wide)[:, :dim]).astype(np.float32)
    return centroids


def kmeans_each(parts: Sequence[F32], count: int, seed: int, what: str) -> list[F32]:
    """`kmeans` of each part, one to a thread."""
    return on_threads(lambda part: kmeans(part, count, seed, what), parts, what)


def nearest(rows: F32, centroids: F32, what: str) -> npt.NDArray[np.int64]:
    """The nearest centroid of each row, fast and with FAISS's rounding: for fitting, not for encoding."""
    wide = _columns(*rows.shape)
    with limited(what, len(rows) * len(centroids) * wide) as module:
        _, found = module.knn(_padded(rows, wide), _padded(centroids, wide), 1)
    return np.maximum(found[:, 0], 0).astype(np.int64)  # type: ignore[no-any-return]


def _columns(n: int, dim: int) -> int:
    """Columns that `n` rows need for FAISS's fast kernel, `dim` at least; zeros in the others change no distance."""
    wide = -(-_FAST_VALUES // max(1, n))
    return max(dim, wide) if wide <= _MOST_COLUMNS else dim


def _padded(rows: F32, columns: int) -> F32:
    n, dim = rows.shape
    if dim == columns:
        return np.ascontiguousarray(rows, np.float32)
    padded = np.zeros((n, columns), np.float32)
    padded[:, :dim] = rows
    return padded


def even_slices(dim: int, m: int) -> list[tuple[int, int]]:
    """First and last column (exclusive) of m slices of `dim` values, as even as can be."""
    return [(s * dim // m, (s + 1) * dim // m) for s in range(m)]
