"""One method on a sample: what it would lose, find and take on the whole table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import kernels
from ..arrays import Arrays, TableShape
from ..method import FloatRows, Method, Named
from ..sampling import ArrayRows
from .sample import Sample, scores

_LOOKUPS, _ROUNDS = 20_000, 5
# Codes are repeated up to this size before lookups are timed: a core's own caches hold less.
_TIMED_BYTES = 32 << 20


@dataclass(frozen=True)
class Trial:
    """Predictions for the whole table.

    Attributes
    ----------
    error : relative squared error.
    recall : share of the k nearest rows of a query that are among the k found; of few queries.
    lookup_us : microseconds a row, on one core.
    fit_seconds, fit_rows : what fitting took, and the rows it used.
    encode_seconds : for a row.
    asked : the most rows a fit uses; None for all there are.
    """

    error: float
    recall: float
    lookup_us: float
    fit_seconds: float
    fit_rows: int
    encode_seconds: float
    asked: int | None


def run(method: Method, sample: Sample, k: int, seed: int) -> Trial:
    """Fit a method resolved for the whole table on the sample, and measure it."""
    start = time.perf_counter()
    source = ArrayRows(sample.fit)
    shared = method.fit(source, np.random.default_rng(seed))
    fitted = time.perf_counter()
    pool, codes = _coded(method, shared, sample.pool)
    done = time.perf_counter()
    if len(sample.held):
        seen = sample.fit[: len(sample.held)]
        inside, outside = (_error(rows, _coded(method, shared, rows)[0]) for rows in (seen, sample.held))
        error = _whole_error(inside, outside, len(sample.fit), sample.shape.num_embeddings, source.asked)
    else:
        error = _error(sample.pool, pool)
    return Trial(
        error=error, recall=_recall(sample, pool, k), lookup_us=_lookup_us(method, shared, codes, sample.shape),
        fit_seconds=fitted - start, fit_rows=min(len(sample.fit), source.asked or len(sample.fit)),
        encode_seconds=(done - fitted) / len(pool), asked=source.asked,
    )  # fmt: skip


def seconds(trials: Sequence[Trial], rows: int) -> float:
    """To fit and encode a table of `rows` rows: the fit drawn out in a line from its one or two trials."""
    first, last = trials[0], trials[-1]
    slope = last.fit_seconds / last.fit_rows
    if last.fit_rows > first.fit_rows:
        slope = max(0.0, last.fit_seconds - first.fit_seconds) / (last.fit_rows - first.fit_rows)
    used = min(rows, last.asked or rows)
    return last.fit_seconds + slope * max(0, used - last.fit_rows) + last.encode_seconds * rows


def _coded(method: Method, shared: Named, rows: FloatRows) -> tuple[FloatRows, Named]:
    """Rows through the codes and back, and the codes."""
    ids = np.arange(len(rows))
    codes = kernels.encoder(method)(shared, ids, rows)
    out = np.empty_like(rows)
    _bound(method, shared, codes, rows.shape[1], len(rows)).lookup(ids, out, kernels.get_num_threads())
    return out, codes


def _bound(method: Method, shared: Named, codes: Named, dim: int, rows: int) -> kernels.Bound:
    shape = TableShape(rows, dim)
    by_row = {s.name for s in method.layout(shape) if s.partition == "rows"}
    once = {n: a for n, a in {**shared, **codes}.items() if n not in by_row and not n.startswith("_")}
    arrays = [Arrays({n: a for n, a in codes.items() if n in by_row})] if by_row else []
    return kernels.bind(method, shape, 1 << max(1, rows - 1).bit_length(), arrays, once)[0]


def _error(rows: FloatRows, decoded: FloatRows) -> float:
    lost = np.square(decoded.astype(np.float64) - rows).sum()
    return float(lost / (np.square(rows, dtype=np.float64).sum() or 1.0))


def _whole_error(inside: float, outside: float, fitted: int, rows: int, asked: int | None) -> float:
    """The error over all `rows` from those over rows fitted on and rows held back.

    To first order a fit on n rows loses D - c/n on those and D + c/n on others. The whole table is fitted on as many
    rows as the method asks for, which are part of the rows it is measured on.
    """
    fitted = min(fitted, asked or fitted)
    used = min(rows, asked or rows)
    limit, slope = (inside + outside) / 2, fitted * max(0.0, outside - inside) / 2
    return max(0.0, limit + slope / used * (1 - 2 * used / rows))


def _recall(sample: Sample, decoded: FloatRows, k: int) -> float:
    found = scores(decoded, sample.queries, sample.metric)
    found[np.arange(len(found)), sample.own] = -np.inf
    want = sample.near[:, :k]
    best = np.argpartition(-found, want.shape[1] - 1, axis=1)[:, : want.shape[1]]
    return float((best[:, :, None] == want[:, None, :]).sum() / want.size)


def _lookup_us(method: Method, shared: Named, codes: Named, shape: TableShape) -> float:
    """Microseconds for one row of many in random order: the median of rounds."""
    layout = method.layout(shape)
    rows = len(next(iter(codes.values()))) if codes else shape.num_embeddings
    if codes and all(s.partition != "ragged" for s in layout):
        each = max(1, sum(a.nbytes for a in codes.values()) // rows)
        wanted = min(shape.num_embeddings, _TIMED_BYTES // each)
        codes = {n: np.resize(a, (max(rows, wanted), *a.shape[1:])) for n, a in codes.items()}
        rows = max(rows, wanted)
    bound = _bound(method, shared, codes, shape.embedding_dim, rows)
    ids = np.random.default_rng(0).integers(0, rows, _LOOKUPS)
    out = np.empty((len(ids), shape.embedding_dim), np.float32)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        bound.lookup(ids, out, 1)
        times.append(time.perf_counter() - start)
    return statistics.median(times) / _LOOKUPS * 1e6
