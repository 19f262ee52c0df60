"""Exhaustive search: every row scored over its codes, the best kept, and those scored again from their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, IdRangeError, IdTypeError, ShapeError
from ..method import FloatRows
from .rerank import Rows, rows_of

if TYPE_CHECKING:
    from ..table import Table
    from .faiss_index import TableIndex

Metric = Literal["cosine", "ip", "l2"]
METRICS = ("cosine", "ip", "l2")
F32 = npt.NDArray[np.float32]
Hits = tuple[F32, npt.NDArray[np.int64]]

# Scorers over codes may round the query; this many candidates more are scored again from decoded values.
CANDIDATES = 4
MARGIN = 32
# Codes rank rows by coarser values than those of a rerank, so that more are tried then.
RERANKED = 100


def check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ConfigError(f"metric must be 'cosine', 'ip' or 'l2', found {metric!r}; choose one of these")


def check_k(k: object, rows: int) -> int:
    """k as an int, for a search over `rows` rows."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"k must be a positive integer, found {k!r}; 10 is usual")
    if k > rows:
        raise ConfigError(f"k must be at most the {rows} rows searched, found {k}; lower it")
    return int(k)


def check_queries(queries: Any, dim: int) -> FloatRows:
    """Queries as float32 of shape (n, dim); `ShapeError` for another shape or dtype, or NaN and infinities."""
    try:
        array = np.asarray(queries)
    except ValueError as error:
        raise ShapeError(f"queries must all have {dim} values, found others; pass vectors of one length") from error
    if array.dtype.kind not in "fiu":
        raise ShapeError(f"queries must be floats, found {array.dtype}; pass vectors of {dim} values")
    if array.ndim not in (1, 2) or array.shape[-1] != dim:
        raise ShapeError(f"queries must have shape (n, {dim}) or ({dim},), found {array.shape}; pass vectors")
    with np.errstate(over="ignore"):  # told below
        array = np.ascontiguousarray(np.atleast_2d(array), np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        at = int(np.argmin(finite))
        raise ShapeError(
            f"queries must be finite, found NaN, an infinity or more than float32 holds in query {at}; leave it out"
        )
    return array


def check_filter(table: Table, filter: Any) -> npt.NDArray[np.uint8] | None:
    """A byte for each row, 1 where it may be found, of a bool mask or row ids; None for no filter."""
    if filter is None:
        return None
    given = np.asarray(filter)
    n = table.num_embeddings
    if given.dtype == bool:
        if given.shape != (n,):
            raise ShapeError(f"a filter mask must have shape ({n},), found {given.shape}; one bool for each row")
        mask = given.astype(np.uint8)
    else:
        if given.dtype.kind not in "iu" and given.size:
            raise IdTypeError(f"a filter must be a bool mask or integer ids, found {given.dtype}; convert it")
        ids = given.astype(np.int64).reshape(-1)
        if len(ids) and (ids.min() < 0 or ids.max() >= n):
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise IdRangeError(f"filter ids must be from 0 to {n - 1}, found {worst}; check the ids")
        mask = np.zeros(n, np.uint8)
        mask[ids] = 1
    if not mask.any():
        raise ConfigError("a filter must leave at least one row, found that it leaves none; widen it")
    return mask


def check_candidates(rerank_k: object, k: int, rows: int, default: int) -> int:
    """How many candidates are scored again: `rerank_k`, at least k, at most all rows."""
    if rerank_k is None:
        return min(default, rows)
    if isinstance(rerank_k, bool) or not isinstance(rerank_k, (int, np.integer)) or rerank_k < k:
        raise ConfigError(f"rerank_k must be an integer of at least k = {k}, found {rerank_k!r}; leave it out")
    return min(int(rerank_k), rows)


def search(
    table: Table,
    queries: Any,
    k: int = 10,
    metric: Metric = "cosine",
    *,
    filter: Any = None,
    rerank: Any = None,
    rerank_k: int | None = None,
    index: str | TableIndex | None = None,
    nprobe: int | None = None,
) -> Hits:
    """The nearest rows to each query, by an exhaustive scan of the codes or through an index.

    Parameters
    ----------
    queries : finite floats of shape (n, embedding_dim), or (embedding_dim,) for one query.
    k : rows to find, at most `num_embeddings`.
    metric : "cosine", "ip" (inner product) or "l2".
    filter : rows that may be found: a bool mask of shape (num_embeddings,) or ids.
    rerank : rescore the candidates of the scan from finer values of the same rows: True for the second method the
        table was compressed with, a table, a numpy array or memmap, a `RowSource`, or the path of one.
    rerank_k : how many candidates are scored again, at least k; by default max(4 k, 100) with `rerank` or `index`,
        and 4 k + 32 without, where the table's own decoded values score them.
    index : a FAISS index made by `embstore.search.build_index`, to take the candidates from: its name, or what
        `Table.index(name).to("cuda")` gives.
    nprobe : lists of an IVF index to look at; by default a 32nd of them.

    Returns
    -------
    (D, I), both of shape (n, k), or (k,) for one query: similarities, larger first, or for "l2" squared distances,
    smaller first; and row ids. Scores are those of the rows as `lookup`, or the rerank, gives them; equal ones are
    ordered by id.
    Where fewer than k rows may be found the rest is NaN and -1. Rows with NaN or infinities are never found.

    Raises
    ------
    ShapeError, ConfigError : queries or a rerank of another shape, queries not finite; another metric; k out of
        range; a filter that leaves nothing; no second method for `rerank=True`.
    """
    check_metric(metric)
    k = check_k(k, table.num_embeddings)
    given = check_queries(queries, table.embedding_dim)
    allowed = check_filter(table, filter)
    rows = rows_of(table, rerank)
    own = index is None and (rerank is None or rerank is False)
    default = CANDIDATES * k + MARGIN if own else max(CANDIDATES * k, RERANKED)
    wanted = check_candidates(rerank_k, k, table.num_embeddings, default)
    if index is not None:
        through = table.index(index) if isinstance(index, str) else index
        if through.digest != table.metadata["digest"]:
            raise ConfigError(f"index {through.name!r} was built from another table; ask this table for its own")
        if through.metric != metric:
            raise ConfigError(
                f"index {through.name!r} was built for {through.metric!r}, found {metric!r}; search by the former"
            )
        candidates = through.candidates(given, wanted, nprobe, allowed)
    elif nprobe is not None:
        raise ConfigError(f'nprobe needs an index, found {nprobe!r} without one; name it with index="NAME"')
    else:
        candidates = table._scan(given, wanted, metric, allowed)
    scores, ids = rescore(rows, given, candidates, k, metric)
    return (scores, ids) if np.ndim(queries) == 2 else (scores[0], ids[0])


def rescore(rows_of: Rows, queries: FloatRows, candidates: npt.NDArray[np.int64], k: int, metric: Metric) -> Hits:
    """The k best of each query's candidate ids (-1 for none), scored from the values `rows_of` gives.

    Equal scores: the smaller id first. Fewer than k: ids of -1 with a score of NaN.
    """
    unique, place = np.unique(np.maximum(candidates, 0), return_inverse=True)
    rows = rows_of(unique)
    place = place.reshape(candidates.shape)
    scores = np.empty(candidates.shape, np.float32)
    for q, query in enumerate(queries):
        scores[q] = score(rows[place[q]], query, metric)
    worse = scores if metric == "l2" else -scores
    worse = np.where(np.isfinite(worse) & (candidates >= 0), worse, np.float32(np.inf))
    order = np.lexsort((candidates, worse), axis=1)[:, :k]
    missing = np.isinf(np.take_along_axis(worse, order, axis=1))
    found, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(candidates, order, axis=1)
    return np.where(missing, np.float32(np.nan), found), np.where(missing, -1, ids)


def score(rows: F32, query: F32, metric: Metric) -> F32:
    """Similarity (cosine, ip) or squared distance (l2) of each row; a zero row or query has cosine 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        if metric == "l2":
            distances: F32 = np.square(rows - query).sum(axis=1)
            return distances
        products: F32 = rows @ query
        if metric == "ip":
            return products
        sizes = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        # Not where sizes are NaN: rows with NaN or infinities stay without a score.
        return np.where(sizes == 0, 0, products / np.where(sizes == 0, 1, sizes)).astype(np.float32)
