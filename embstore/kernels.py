"""Which code runs an operation: the native kernel, else the method's own numpy. And why."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from . import encoding, native
from .arrays import Arrays, TableShape
from .encoding import flat
from .errors import ConfigError
from .method import FloatRows, Ids, Linear, Method, Named
from .pipeline import Pipeline
from .threads import get_num_threads as get_num_threads
from .threads import set_num_threads as set_num_threads

BAG_MODES = ("sum", "mean", "max")


class Bound(Protocol):
    """A kernel bound to one table. Each call returns the position of the first id out of range, or -1."""

    def lookup(self, ids: Ids, out: FloatRows, threads: int) -> int: ...
    def lookup_half(self, ids: Ids, out: npt.NDArray[np.uint16], threads: int) -> int: ...
    def lookup_one(self, id: int, out: FloatRows) -> int: ...
    def bag(self, ids: Ids, offsets: Ids, weights: Any, mode: int, out: FloatRows, threads: int) -> int: ...

    def squared_norms(self, out: npt.NDArray[np.float32], threads: int) -> None:
        """The squared length of every row as a lookup gives it."""
        ...

    def scan(self, queries: FloatRows, k: int, terms: ScanTerms, ids: Ids, threads: int) -> None:
        """Ids (n, k) of the rows of best score for each query (n, width of codes), best first; -1 for none.

        Scores may be off by the scorer's rounding of queries: take more candidates than are wanted.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ScanTerms:
    """score = (query @ code + constant of the query) * scale of the row + bias of the row, for rows that are allowed.

    Each is None for what changes nothing.
    """

    constants: npt.NDArray[np.float32] | None = None
    scales: npt.NDArray[np.float32] | None = None
    biases: npt.NDArray[np.float32] | None = None
    allowed: npt.NDArray[np.uint8] | None = None


class NativeBound(Bound, Protocol):
    """One that native transforms can follow."""

    def undo_after(self, id: str, config: dict[str, Any], row_dim: int, arrays: Named) -> None: ...


@dataclasses.dataclass(frozen=True)
class Choice:
    """The kernel that serves a table, and the reason."""

    backend: str
    reason: str


def bind(
    method: Method,
    shape: TableShape,
    rows_per_shard: int,
    shards: Sequence[Arrays],
    shared: Mapping[str, npt.NDArray[Any]],
    backend: str | None = None,
) -> tuple[Bound, Choice]:
    """Bind a resolved method to its arrays. `backend` forces "native" or "numpy"; None takes the best there is.

    `shape` is that of the rows a lookup gives.
    """
    if isinstance(method, Pipeline):
        return _bind_pipeline(method, shape, rows_per_shard, shards, shared, backend)
    if backend != "numpy" and native.available():
        module = native.require("a lookup")
        if module.has_kernel(method.id):
            rows = {
                spec.name: (spec.row_nbytes, [flat(s[spec.name]) for s in shards])
                for spec in method.layout(shape)
                if spec.partition == "rows"
            }
            extra = {k: flat(v) for k, v in {**shared, **method.constants(shared)}.items()}
            bound = module.BoundTable(
                method.id, method.config(), shape.num_embeddings, shape.embedding_dim, rows_per_shard, rows, extra
            )
            forced = " (EMBSTORE_ISA)" if os.environ.get("EMBSTORE_ISA") else ""
            return bound, Choice("native", f"csrc/methods/{method.id}.cpp for {bound.isa}{forced}")
        reason = f"no native kernel for {method.id!r}"
    else:
        reason = "asked for" if backend == "numpy" else "the native extension is not installed"
    if backend == "native":
        raise ConfigError(f"backend 'native' was asked for, but there is {reason}; use backend=None")
    return NumpyBound(method, shape, rows_per_shard, shards, shared), Choice("numpy", reason)


def _bind_pipeline(
    pipeline: Pipeline,
    shape: TableShape,
    rows_per_shard: int,
    shards: Sequence[Arrays],
    shared: Mapping[str, npt.NDArray[Any]],
    backend: str | None,
) -> tuple[Bound, Choice]:
    method, code_shape = pipeline.method, pipeline.code_shape(shape)
    own = {k: v for k, v in shared.items() if k in {s.name for s in method.layout(code_shape)}}
    inner, choice = bind(method, code_shape, rows_per_shard, shards, own, backend)
    if choice.backend == "native":
        module = native.require("a lookup")
        lost = [t.id for t in pipeline.transforms if not module.has_transform(t.id)]
        if not lost:
            native_bound = cast(NativeBound, inner)
            dims = pipeline.dims(shape.embedding_dim)
            for i in range(len(pipeline.transforms) - 1, -1, -1):
                t, arrays = pipeline.transforms[i], pipeline.shared_of(shared, i)
                rows = t.row_dim(dims[i])
                native_bound.undo_after(t.id, t.config(), rows, {k: flat(v) for k, v in arrays.items()})
            return inner, choice
        choice = Choice("native", f"{choice.reason}; {', '.join(lost)} by numpy")
    return PipelineBound(pipeline, inner, shape.embedding_dim, code_shape.embedding_dim, shared), choice


class PipelineBound:
    """A method's kernel with the transforms undone by numpy: the reference of the native ones."""

    def __init__(
        self, pipeline: Pipeline, inner: Bound, dim: int, width: int, shared: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        self._pipeline, self._inner, self._dim, self._width, self._shared = pipeline, inner, dim, width, shared

    def squared_norms(self, out: npt.NDArray[np.float32], threads: int = 1) -> None:
        squared_norms(self, out, self._dim)

    def scan(self, queries: FloatRows, k: int, terms: ScanTerms, ids: Ids, threads: int = 1) -> None:
        self._inner.scan(queries, k, terms, ids, threads)

    def _codes(self, n: int) -> FloatRows:
        return np.empty((n, self._width), np.float32)

    def lookup(self, ids: Ids, out: FloatRows, threads: int = 1) -> int:
        codes = self._codes(len(ids))
        bad = self._inner.lookup(ids, codes, threads)
        if bad < 0:
            out[:] = self._pipeline.undo(self._shared, codes)
        return bad

    def lookup_half(self, ids: Ids, out: npt.NDArray[np.uint16], threads: int = 1) -> int:
        rows = np.empty(out.shape, np.float32)
        bad = self.lookup(ids, rows, threads)
        if bad < 0:
            with np.errstate(over="ignore"):
                out[:] = rows.astype(np.float16).view(np.uint16)
        return bad

    def lookup_one(self, id: int, out: FloatRows) -> int:
        return self.lookup(np.array([id], np.int64), out.reshape(1, -1))

    def bag(self, ids: Ids, offsets: Ids, weights: Any, mode: int, out: FloatRows, threads: int = 1) -> int:
        if BAG_MODES[mode] == "max":
            rows = np.empty((len(ids), out.shape[1]), np.float32)
            bad = self.lookup(ids, rows, threads)
            if bad < 0:
                pool(rows, offsets, mode, out)
            return bad
        # Undoing is affine: the sum of rows is the sum of codes, undone once.
        codes = self._codes(len(out))
        bad = self._inner.bag(ids, offsets, weights, mode, codes, threads)
        if bad < 0:
            out[:] = self._pipeline.undo(self._shared, codes, constants_of_bags(offsets, weights, mode))
            out[np.diff(offsets) == 0] = 0
        return bad


def constants_of_bags(offsets: Ids, weights: Any, mode: int) -> npt.NDArray[np.float32]:
    """How often each bag has a transform's constant part: its rows, their weights, or once for a mean."""
    if BAG_MODES[mode] == "mean":
        return (np.diff(offsets) > 0).astype(np.float32)
    if weights is None:
        return np.diff(offsets).astype(np.float32)
    total = np.zeros(len(offsets) - 1, np.float32)
    for b, (first, last) in enumerate(itertools.pairwise(offsets)):
        for weight in weights[first:last]:
            total[b] += weight
    return total


class NumpyBound:
    """The method's own `lookup` behind the interface of the native kernels: slow, and the oracle."""

    def __init__(
        self,
        method: Method,
        shape: TableShape,
        rows_per_shard: int,
        shards: Sequence[Arrays],
        shared: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self._method, self._shape, self._shared = method, shape, shared
        # A method that stores nothing by row has no shards: one without arrays stands for them.
        self._rows_per_shard = rows_per_shard if shards else 1 << 62
        self._shards = [Arrays({**dict(s), **shared}, s.start) for s in shards or [Arrays({})]]

    def _check(self, ids: Ids) -> int:
        bad = (ids < 0) | (ids >= self._shape.num_embeddings)
        return int(np.argmax(bad)) if bad.any() else -1

    def lookup(self, ids: Ids, out: FloatRows, threads: int = 1) -> int:
        bad = self._check(ids)
        if bad >= 0:
            return bad
        for shard, at in self._by_shard(ids):
            part = np.empty((len(at), self._shape.embedding_dim), np.float32)
            self._method.lookup(shard, ids[at], part)
            out[at] = part
        return -1

    def _by_shard(self, ids: Ids) -> Iterator[tuple[Arrays, npt.NDArray[np.intp]]]:
        """Each shard that has some of the ids, and where in `ids` they are."""
        shard_of = ids // self._rows_per_shard
        for s in np.unique(shard_of):
            yield self._shards[s], np.flatnonzero(shard_of == s)

    def squared_norms(self, out: npt.NDArray[np.float32], threads: int = 1) -> None:
        squared_norms(self, out, self._shape.embedding_dim)

    def scan(self, queries: FloatRows, k: int, terms: ScanTerms, ids: Ids, threads: int = 1) -> None:
        scan(self, self._shape, queries, k, terms, ids)

    def lookup_half(self, ids: Ids, out: npt.NDArray[np.uint16], threads: int = 1) -> int:
        rows = np.empty(out.shape, np.float32)
        bad = self.lookup(ids, rows)
        with np.errstate(over="ignore"):
            out[:] = rows.astype(np.float16).view(np.uint16)
        return bad

    def lookup_one(self, id: int, out: FloatRows) -> int:
        return self.lookup(np.array([id], np.int64), out.reshape(1, -1))

    def bag(self, ids: Ids, offsets: Ids, weights: Any, mode: int, out: FloatRows, threads: int = 1) -> int:
        if isinstance(self._method, Linear) and BAG_MODES[mode] != "max" and len(ids):
            return self._bag_codes(self._method, ids, offsets, weights, mode, out)
        rows = np.empty((len(ids), self._shape.embedding_dim), np.float32)
        bad = self.lookup(ids, rows)
        if bad >= 0:
            return bad
        if weights is not None:
            rows *= weights[:, None]
        pool(rows, offsets, mode, out)
        return -1

    def _bag_codes(self, method: Linear, ids: Ids, offsets: Ids, weights: Any, mode: int, out: FloatRows) -> int:
        bad = self._check(ids)
        if bad >= 0:
            return bad
        parts = [(at, method.codes(shard, ids[at])) for shard, at in self._by_shard(ids)]
        codes = np.empty((len(ids), parts[0][1].shape[1]), np.float32)
        for at, part in parts:
            codes[at] = part
        if weights is not None:
            codes *= weights[:, None]
        sums = np.empty((len(out), codes.shape[1]), np.float32)
        pool(codes, offsets, mode, sums)
        out[:] = method.expand(self._shared, sums)
        out[np.diff(offsets) == 0] = 0
        return -1


_BLOCK_VALUES = 1 << 22


def squared_norms(bound: Bound, out: npt.NDArray[np.float32], dim: int) -> None:
    """The reference of `Bound.squared_norms`."""
    step = max(1, _BLOCK_VALUES // dim)
    for first in range(0, len(out), step):
        ids = np.arange(first, min(first + step, len(out)), dtype=np.int64)
        rows = np.empty((len(ids), dim), np.float32)
        bound.lookup(ids, rows, 1)
        out[ids] = np.square(rows, dtype=np.float64).sum(axis=1)


def scan(bound: Bound, shape: TableShape, queries: FloatRows, k: int, terms: ScanTerms, out: Ids) -> None:
    """The reference of `Bound.scan`: blocks of rows decoded and multiplied. Equal scores: the smaller id first."""
    n, dim = shape.num_embeddings, shape.embedding_dim
    best = np.zeros((len(queries), 0), np.float32)
    found = np.zeros((len(queries), 0), np.int64)
    step = max(1, _BLOCK_VALUES // dim)
    for first in range(0, n, step):
        ids = np.arange(first, min(first + step, n), dtype=np.int64)
        rows = np.empty((len(ids), dim), np.float32)
        bound.lookup(ids, rows, 1)
        scores = queries @ rows.T
        if terms.constants is not None:
            scores += terms.constants[:, None]
        if terms.scales is not None:
            scores *= terms.scales[ids]
        if terms.biases is not None:
            scores += terms.biases[ids]
        scores[np.isnan(scores)] = -np.inf
        if terms.allowed is not None:
            scores[:, terms.allowed[ids] == 0] = -np.inf
        best = np.concatenate([best, scores], axis=1)
        found = np.concatenate([found, np.broadcast_to(ids, scores.shape)], axis=1)
        order = np.lexsort((found, -best), axis=1)[:, :k]
        best, found = np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)
    out[:] = -1
    out[:, : found.shape[1]] = np.where(np.isneginf(best), -1, found)


def pool(rows: FloatRows, offsets: Ids, mode: int, out: FloatRows) -> None:
    """Bags of rows, one row after the other: the order the native kernels add in."""
    out[:] = 0
    for b, (first, last) in enumerate(itertools.pairwise(offsets)):
        if BAG_MODES[mode] == "max":
            out[b] = rows[first:last].max(axis=0) if last > first else 0
            continue
        for row in rows[first:last]:
            out[b] += row
        if BAG_MODES[mode] == "mean" and last - first > 1:
            out[b] /= np.float32(last - first)


def apply(
    pipeline: Pipeline, shared: Mapping[str, npt.NDArray[Any]], rows: FloatRows, backend: str | None = None
) -> FloatRows:
    """`pipeline.apply`, natively where that gives the same bits."""
    if backend == "numpy" or not native.available() or len(rows) == 0:
        return pipeline.apply(shared, rows)
    module = native.require("encoding")
    rows = np.ascontiguousarray(rows, np.float32)
    for i, t in enumerate(pipeline.transforms):
        own = pipeline.shared_of(shared, i)
        dim = rows.shape[1]
        out = np.empty((len(rows), t.code_dim(dim)), np.float32)
        arrays = {k: flat(v) for k, v in own.items()}
        if not module.apply_transform(t.id, t.config(), t.row_dim(dim), rows, arrays, out, get_num_threads()):
            out = np.ascontiguousarray(t.apply(own, rows), np.float32)
        rows = out
    return rows


def encoder(
    method: Method, backend: str | None = None, check: bool = False
) -> Callable[[Mapping[str, npt.NDArray[Any]], Ids, FloatRows], Named]:
    """encode(shared, ids, rows) of a resolved method: native where there is one, else the method's own.

    With `check` it raises what `check_encoded` does, of the rows as they come to the method: after the transforms.
    """
    if isinstance(method, Pipeline):
        pipeline, inner = method, encoder(method.method, backend, check)

        def encode_transformed(shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
            return inner(shared, ids, apply(pipeline, shared, rows, backend))

        return encode_transformed
    encode = functools.partial(encoding.encode, method, backend=backend)
    if not check:
        return encode

    def encode_checked(shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        encoded = encode(shared, ids, rows)
        method.check_encoded(encoded, rows, int(ids[0]) if len(ids) else 0)
        return encoded

    return encode_checked
