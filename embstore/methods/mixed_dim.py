"""mixed_dim: rows that are used more often get more dimensions (Ginart et al., ISIT 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named, RowMethod, Rows, nbytes
from ..products import gram, leading
from . import _groups
from ._table_rows import CODED, RowCoding

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_ALPHA = 0.3
_STEEPEST = 8.0
_BISECTIONS = 40
# Rows projected at a time: their sums stay in the second-level cache.
_TILE = 512


@dataclass(frozen=True)
class MixedDim(RowMethod):
    """Rows in blocks of like frequency, each a narrow table and a projection to the full row; needs counts.

    The rows most used come first. Where a row of the first block is used p_0 times and one of block i p_i times, on
    average, it has dim * (p_i / p_0) ** alpha values, rounded and at least 1. A block's projection is the truncated SVD
    of its rows; a block of full rows has none.

    Parameters
    ----------
    blocks : at most 16; each has twice as many rows as the one before.
    alpha : 0 for the same dimensions everywhere, 1 for dimensions in proportion to use; None for 0.3, or what the
        budget leaves.
    powers : round dimensions to powers of two.
    values : of the narrow tables: "float16", "float32", or "int8" or "int4", codes with one scale and offset a row,
        smaller than float16 where rows have more than 5 or 3 values. Projections are float32.
    weighted : fit the projections to rows weighted by their counts.
    limit : bytes not to exceed: alpha is raised for it, or where alpha is given, all dimensions are multiplied by one
        factor. What a budget sets.

    A row with NaN or infinities decodes to NaN as a whole, or as it was in a block of full rows of floats.
    """

    id: ClassVar[str] = "mixed_dim"

    blocks: int = 8
    alpha: float | None = None
    powers: bool = False
    values: Literal["float16", "float32", "int8", "int4"] = "float16"
    weighted: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if type(self.blocks) is not int or not 1 <= self.blocks <= _groups.MAX_GROUPS:
            raise ConfigError(f"blocks of mixed_dim must be from 1 to 16, found {self.blocks!r}; 8 is usual")
        if self.alpha is not None and (
            isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not 0 <= self.alpha <= _STEEPEST
        ):
            raise ConfigError(f"alpha of mixed_dim must be from 0 to 8, found {self.alpha!r}; 0.2 to 0.4 is usual")
        for name in ("powers", "weighted"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} of mixed_dim must be true or false, found {getattr(self, name)!r}")
        if self.values not in ("float16", "float32", *CODED):
            raise ConfigError(
                f"values of mixed_dim must be 'float16', 'float32', 'int8' or 'int4', found {self.values!r}; choose one"
            )
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ConfigError(f"limit of mixed_dim must be a positive integer, found {self.limit!r}; leave it out")

    def resolve(self, shape: TableShape) -> Self:
        """No more blocks than rows."""
        _groups.check_rows(self.id, shape)
        return dataclasses.replace(self, blocks=min(self.blocks, max(1, shape.num_embeddings)))

    @property
    def coding(self) -> RowCoding:
        """How rows of the narrow tables are stored."""
        return RowCoding(self.values)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        tables = [ArraySpec(f"values_{g}", self.coding.dtype, (f"values_{g}",), "ragged") for g in range(self.blocks)]
        return (
            *_groups.specs(self.blocks),
            ArraySpec("dims", "int32", (self.blocks,), "shared"),
            ArraySpec("projections", "float32", ("projection_rows", shape.embedding_dim), "shared"),
            *tables,
        )

    def free_sizes(self, shape: TableShape) -> dict[str, int]:
        """For counts of a Zipf law, in no order."""
        n = shape.num_embeddings
        bounds = block_bounds(n, self.blocks)
        mass = np.diff(np.log(bounds + 1.0))
        try:
            dims = self._dims(shape, mass, in_order=False)
        except BudgetError:
            dims = np.ones(self.blocks, np.int64)
        return self.sizes(shape, dims, in_order=False)

    def sizes(self, shape: TableShape, dims: I64, in_order: bool) -> dict[str, int]:
        """Free dimensions for these dims of the blocks."""
        rows = np.diff(block_bounds(shape.num_embeddings, self.blocks))
        sizes = _groups.free_sizes(shape, self.blocks, in_order)
        sizes |= {f"values_{g}": int(rows[g]) * self.coding.items(int(dims[g])) for g in range(self.blocks)}
        return sizes | {"projection_rows": int(dims[dims < shape.embedding_dim].sum())}

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """`limit` for the budget, kept when the counts are seen; `BudgetError` names what the narrowest tables take."""
        resolved = dataclasses.replace(self, limit=nbytes_).resolve(shape)
        narrowest = np.ones(resolved.blocks, np.int64)
        floor = nbytes(resolved, shape, **resolved.sizes(shape, narrowest, in_order=True))
        if nbytes_ < floor:
            raise BudgetError(
                f"method 'mixed_dim' needs at least {floor:,} bytes for {shape.num_embeddings:,} x "
                f"{shape.embedding_dim}, found a budget of {nbytes_:,}; raise it or choose a smaller method",
                floor=floor,
            )
        return resolved

    def _dims(self, shape: TableShape, mass: F64, in_order: bool) -> I64:
        """Dimensions of each block, of which a row is used with probability `mass` / rows, within the limit."""
        rows = np.diff(block_bounds(shape.num_embeddings, self.blocks))
        popularity = mass / np.maximum(rows, 1)

        def at(alpha: float, scale: float = 1.0) -> I64:
            return popular_dims(popularity, shape.embedding_dim, alpha, scale, self.powers)

        def fits(dims: I64) -> bool:
            return self.limit is None or nbytes(self, shape, **self.sizes(shape, dims, in_order)) <= self.limit

        def shrunk(t: float) -> I64:
            """From all there is, t = 0, to the least, t = 1."""
            if self.alpha is None:
                return at(t * _STEEPEST)
            return at(self.alpha, float(shape.embedding_dim) ** (1 - 2 * t))

        if self.limit is None:
            return at(_ALPHA if self.alpha is None else self.alpha)
        if fits(shrunk(0.0)):
            return shrunk(0.0)
        if not fits(shrunk(1.0)):
            least = nbytes(self, shape, **self.sizes(shape, shrunk(1.0), in_order))
            raise BudgetError(
                f"mixed_dim needs at least {least:,} bytes for these counts, found a budget of {self.limit:,}; "
                "raise it, or give alpha to lower all dimensions alike",
                floor=least,
            )
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(shrunk(middle)) else (middle, high)
        return shrunk(high)

    def blocks_of(self, shape: TableShape, counts: F64) -> tuple[npt.NDArray[np.uint8], I64]:
        """The block of each row (num_embeddings,) and the dimensions of each block, by counts; `BudgetError`."""
        order = np.argsort(-counts, kind="stable")
        bounds = block_bounds(len(order), self.blocks)
        group = np.empty(len(order), np.uint8)
        group[order] = np.repeat(np.arange(self.blocks, dtype=np.uint8), np.diff(bounds))
        mass = np.bincount(group, weights=counts, minlength=self.blocks).astype(np.float64)
        return group, self._dims(shape, mass, _groups.consecutive(group))

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        """Blocks by counts, dimensions by the rule, projections by one pass over the rows."""
        counts, shape = source.counts, source.shape
        if counts is None:
            raise ConfigError(
                "mixed_dim needs to know how often rows are used; pass counts= (--counts on the command line)"
            )
        group, dims = self.blocks_of(shape, counts)
        bases = self._bases(source, counts, group, dims)
        stored = [b for b, d in zip(bases, dims, strict=True) if d < shape.embedding_dim]
        empty = np.zeros((0, shape.embedding_dim), np.float32)
        return {
            **_groups.build(group, self.blocks),
            "dims": dims.astype(np.int32),
            "projections": np.ascontiguousarray(np.concatenate([empty, *stored]), np.float32),
            "_group": group,
        }

    def _bases(self, source: Rows, counts: F64, group: npt.NDArray[np.uint8], dims: I64) -> list[F64]:
        """Leading right singular vectors (d, dim) of each block's rows."""
        dim = source.shape.embedding_dim
        moments = np.zeros((self.blocks, dim, dim))
        first = 0
        for rows in source.blocks():
            part = slice(first, first + len(rows))
            first += len(rows)
            finite = np.isfinite(rows).all(axis=1)
            for g in np.flatnonzero(dims < dim):
                at = np.flatnonzero(finite & (group[part] == g))
                x = rows[at].astype(np.float64)
                if self.weighted:
                    x *= np.sqrt(counts[part][at, None])
                moments[g] += gram(x)
        return [leading(m, int(d))[0] for m, d in zip(moments, dims, strict=True)]

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        dim = rows.shape[1]
        named: Named = {}
        group = shared["_group"][ids]
        first = 0
        for g, d in enumerate(shared["dims"]):
            x = rows[group == g]
            if d < dim:
                codes = _project(x, shared["projections"][first : first + d])
                first += int(d)
                x = np.where(np.isfinite(x).all(axis=1, keepdims=True), codes, np.float32(np.nan))
            named[f"values_{g}"] = self.coding.encode(x).reshape(-1)
        return named

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse rows too large for float16, which scales are too; `ConfigError` names the largest."""
        if self.values == "float32" or not len(rows):
            return
        if self.values == "float16" and not any(np.isinf(v).any() for v in encoded.values()):
            return
        length = np.linalg.norm(np.where(np.isfinite(rows), rows, 0).astype(np.float64), axis=1)
        row = int(np.argmax(length))
        if length[row] > 65504:
            raise ConfigError(
                f"values of mixed_dim as {self.values} are for rows of a length of at most 65504, found row "
                f"{first_row + row} of length {length[row]:g}; use values='float32'"
            )

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        dim = out.shape[1]
        group, place = _groups.locate(arrays, ids)
        first = 0
        for g, width in enumerate(arrays["dims"]):
            d = int(width)
            at = np.flatnonzero(group == g)
            stored = arrays[f"values_{g}"].reshape(-1, self.coding.items(d))[place[at]]
            codes = self.coding.decode(stored, d)
            if d == dim:
                out[at] = codes
                continue
            total = codes[:, :1] * arrays["projections"][first]
            for k in range(1, d):
                total += codes[:, k : k + 1] * arrays["projections"][first + k]
            out[at] = total
            first += d


def _project(rows: FloatRows, projection: npt.NDArray[Any]) -> FloatRows:
    """rows @ projection.T, each row on its own: what BLAS gives a row may depend on how many there are."""
    out = np.empty((len(rows), len(projection)), np.float32)
    # Row lengths are short and tiles long, so the columns are what numpy loops over.
    with np.errstate(all="ignore"):
        for first in range(0, len(rows), _TILE):
            columns = np.ascontiguousarray(rows[first : first + _TILE].T)
            total = projection[:, :1] * columns[0]
            for j in range(1, len(columns)):
                total += projection[:, j : j + 1] * columns[j]
            out[first : first + _TILE] = total.T
    return out


def block_bounds(n: int, blocks: int) -> I64:
    """Where blocks of rows in order of use begin and end (blocks + 1): each twice the one before, none empty."""
    bounds: I64 = np.rint(n * (2.0 ** np.arange(blocks + 1) - 1) / (2.0**blocks - 1)).astype(np.int64)
    steps = np.arange(blocks + 1)
    if n >= blocks:
        bounds = np.maximum.accumulate(np.maximum(bounds - steps, 0)) + steps
        bounds = np.minimum(bounds, n - steps[::-1])
    return bounds


def popular_dims(popularity: F64, dim: int, alpha: float, scale: float = 1.0, powers: bool = False) -> I64:
    """The popularity rule: `dim` for the most popular, d_i = scale * dim * (p_i / p_max) ** alpha for the others.

    Rounded to integers from 1 to `dim` and, with `powers`, then to the nearest power of two on a logarithmic scale.
    """
    top = popularity.max()
    relative = popularity / top if top > 0 else np.ones_like(popularity)
    dims = np.clip(np.rint(scale * dim * relative**alpha), 1, dim)
    if powers:
        dims = np.minimum(2.0 ** np.rint(np.log2(dims)), dim)
    return dims.astype(np.int64)
