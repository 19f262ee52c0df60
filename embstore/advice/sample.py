"""Rows of a source: those to fit on, those to measure on, those to search."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..arrays import TableShape
from ..compare import draw_rows
from ..method import FloatRows, Ids

if TYPE_CHECKING:
    from ..sources.base import RowSource

Metric = Literal["cosine", "ip", "l2"]

# Nearest rows of each query that are searched: one further away is seldom among the ten that codes find.
NEAR = 50
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Sample:
    """Rows drawn uniformly from a source, and the rows of all of it that are nearest to some of them.

    Attributes
    ----------
    shape : of the source.
    fit : rows to fit on, (n, dim), in the source's order.
    held : rows kept back from fitting, (m, dim); none where `fit` is the whole source.
    queries : (q, dim), rows of the source.
    pool : rows to search, (p, dim): the nearest of each query in the whole source, and others.
    near : places in `pool` of the nearest rows of each query, itself left out, best first, (q, at most NEAR).
    own : place in `pool` of each query, (q,).
    metric : that of `near`.
    """

    shape: TableShape
    fit: FloatRows
    held: FloatRows
    queries: FloatRows
    pool: FloatRows
    near: Ids
    own: Ids
    metric: Metric

    @property
    def rows(self) -> int:
        return len(self.fit) + len(self.held)

    def smaller(self, rows: int, queries: int, rng: np.random.Generator) -> Sample:
        """The same of `rows` rows, a third of them held back; `self` where it has no more."""
        if self.rows <= rows:
            return self
        chosen = rng.permutation(len(self.fit))[:rows]
        kept = len(chosen) - rows // 3
        near, own = self.near[:queries], self.own[:queries]
        others = rng.permutation(len(self.pool))[:rows]
        searched = np.unique(np.concatenate([near.ravel(), own, others]))
        return dataclasses.replace(
            self, fit=self.fit[np.sort(chosen[:kept])], held=self.fit[np.sort(chosen[kept:])],
            queries=self.queries[:queries], pool=self.pool[searched],
            near=np.searchsorted(searched, near), own=np.searchsorted(searched, own),
        )  # fmt: skip


def draw(source: RowSource, rows: int, queries: int, metric: Metric, rng: np.random.Generator) -> Sample:
    """A sample of at most `rows` rows, a fifth held back; the whole source to fit on where it has no more.

    The source is read once for the rows and once again for the neighbours of the queries. Raises `SourceError` for NaN
    and infinities among the rows drawn.
    """
    ids, drawn = draw_rows(source, rows, rng)
    asked = np.sort(rng.choice(len(ids), min(queries, len(ids)), replace=False))
    near, values = _nearest(source, drawn[asked], ids[asked], metric)
    if len(ids) == source.shape.num_embeddings:
        return Sample(source.shape, drawn, drawn[:0], drawn[asked], drawn, near, asked, metric)
    kept = np.ones(len(ids), bool)
    kept[rng.choice(len(ids), len(ids) // 5, replace=False)] = False
    # A row that is near several queries, or held back too, is searched once.
    every = np.concatenate([near.ravel(), ids[asked], ids[~kept]])
    found, first = np.unique(every, return_index=True)
    pool = np.concatenate([values.reshape(-1, drawn.shape[1]), drawn[asked], drawn[~kept]])[first]
    return Sample(
        source.shape, drawn[kept], drawn[~kept], drawn[asked], pool,
        np.searchsorted(found, near), np.searchsorted(found, ids[asked]), metric,
    )  # fmt: skip


def scores(rows: FloatRows, queries: FloatRows, metric: Metric) -> FloatRows:
    """How near each row is to each query, (q, n), for ordering the rows of one query; larger is nearer."""
    with np.errstate(all="ignore"):
        if metric == "l2":
            found: FloatRows = queries @ rows.T - np.square(rows).sum(axis=1) / 2
        elif metric == "ip":
            found = queries @ rows.T
        else:
            found = queries @ (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)).T
    found[np.isnan(found)] = -np.inf
    return found


def _nearest(source: RowSource, queries: FloatRows, own: Ids, metric: Metric) -> tuple[Ids, FloatRows]:
    """Ids (q, k) and values (q, k, dim) of the nearest rows of the whole source, best first, `own` left out."""
    q, dim = queries.shape
    best = np.empty((q, 0), np.float32)
    ids, values = np.empty((q, 0), np.int64), np.empty((q, 0, dim), np.float32)
    k = min(NEAR, source.shape.num_embeddings - 1)
    for chunk in source.chunks(_CHUNK):
        here = np.arange(chunk.start, chunk.start + len(chunk.rows))
        new = scores(chunk.rows, queries, metric)
        new[own[:, None] == here] = -np.inf
        top = np.argpartition(-new, min(k, len(here) - 1), axis=1)[:, :k]
        best = np.concatenate([best, np.take_along_axis(new, top, axis=1)], axis=1)
        ids = np.concatenate([ids, here[top]], axis=1)
        values = np.concatenate([values, chunk.rows[top]], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(best, order, axis=1), np.take_along_axis(ids, order, axis=1)
        values = np.take_along_axis(values, order[:, :, None], axis=1)
    return ids, values
