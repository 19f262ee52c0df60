"""pruned: the values of largest magnitude in the whole table are kept, the others become zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError, ShapeError
from ..method import FloatRows, Ids, Named, RowMethod, Rows, nbytes
from ._scales import check_scales

U32 = npt.NDArray[np.uint32]

_MAGNITUDE = np.uint32(0x7FFFFFFF)
# Room left under the density, in thousandths, for which a third pass over the source is not worth its time.
_SLACK = 1000
# Rows that share a start where a budget is small: it costs 2 bits a row, and a lookup counts bits of 15 rows at most.
_RUN = 16
# A faster index is taken as long as it keeps this share of the values that the smallest one does.
_NEARLY = 0.95


@dataclass(frozen=True)
class Pruned(RowMethod):
    """Magnitude pruning: the largest values of the table, one threshold for all rows; the others decode to zero.

    Parameters
    ----------
    density : share of the values that is kept, above 0 and at most 1; never exceeded.
    values : "float16", "float32", or "int8" with a float16 scale a row.
    index : how a row says which values it has: "bitmap" (a bit a column), "columns" (an index for each value kept and
        their number), "cells" (an index for each value kept, of a cell among those of all rows that share a start), or
        "auto" for the smaller of the first two at this density.
    rows_per_start : rows that share one start, a power of two; 1 for "columns". A budget chooses it with the index.

    `fit` reads the source twice, and a third time where values equal to the threshold are more than a thousandth of
    those kept: such ties are kept from the first row on. NaN and infinities count as the largest values.
    """

    id: ClassVar[str] = "pruned"

    density: float = 0.25
    values: Literal["float16", "float32", "int8"] = "float16"
    index: Literal["auto", "bitmap", "columns", "cells"] = "auto"
    start_dtype: Literal["uint32", "uint64"] | None = None
    rows_per_start: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.density, bool) or not isinstance(self.density, (int, float)) or not 0 < self.density <= 1:
            raise ConfigError(f"density of pruned must be above 0 and at most 1, found {self.density!r}; 0.25 is usual")
        for name, choices in (
            ("values", ("float16", "float32", "int8")),
            ("index", ("auto", "bitmap", "columns", "cells")),
            ("start_dtype", (None, "uint32", "uint64")),
        ):
            if getattr(self, name) not in choices:
                known = ", ".join(repr(c) for c in choices)
                raise ConfigError(f"{name} of pruned must be one of {known}, found {getattr(self, name)!r}; choose one")
        run = self.rows_per_start
        if isinstance(run, bool) or not isinstance(run, int) or not 1 <= run <= 1 << 16 or run & (run - 1):
            raise ConfigError(
                f"rows_per_start of pruned must be a power of two up to 65536, found {run!r}; 16 is usual"
            )
        if self.index == "columns" and run > 1:
            raise ConfigError(f"rows_per_start of pruned must be 1 for index 'columns', found {run}; choose 'cells'")
        if self.index == "cells" and run == 1:
            raise ConfigError("rows_per_start of pruned must be 2 or more for index 'cells', found 1; 16 is usual")

    def resolve(self, shape: TableShape) -> Self:
        """Choose index and width of starts by the shape."""
        wide = shape.num_embeddings * shape.embedding_dim >= 2**32
        start = self.start_dtype or ("uint64" if wide else "uint32")
        if self.index != "auto":
            return dataclasses.replace(self, start_dtype=start)
        other: Literal["columns", "cells"] = "columns" if self.rows_per_start == 1 else "cells"
        both = [dataclasses.replace(self, start_dtype=start, index=index) for index in ("bitmap", other)]
        return min(both, key=lambda m: nbytes(m, shape))

    def _kept(self, shape: TableShape) -> int:
        return int(self.density * (shape.num_embeddings * shape.embedding_dim))

    def free_sizes(self, shape: TableShape) -> dict[str, int]:
        runs = {} if self.rows_per_start == 1 else {"runs": -(-shape.num_embeddings // self.rows_per_start)}
        return {"kept": self._kept(shape), **runs}

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n, dim = shape.num_embeddings, shape.embedding_dim
        values = ArraySpec("values", self.values, ("kept",), "ragged", "start")
        start = ArraySpec("start", self.start_dtype or "uint32", (n,), "rows")
        if self.rows_per_start > 1:
            # After what it counts: it is written when that is known.
            start = dataclasses.replace(start, shape=("runs",), partition="ragged")
        specs = [start] if start.partition == "rows" else []
        if self.index == "columns":
            specs.append(ArraySpec("count", _column_dtype(dim + 1), (n,), "rows"))
            specs.append(ArraySpec("columns", _column_dtype(dim), ("kept",), "ragged"))
        elif self.index == "cells":
            specs.append(ArraySpec("cells", _column_dtype(self.rows_per_start * dim), ("kept",), "ragged"))
        else:
            specs.append(ArraySpec("mask", "uint8", (n, -(-dim // 8)), "rows"))
        if self.values == "int8":
            specs.append(ArraySpec("scale", "float16", (n,), "rows"))
        return (*specs, values) if start in specs else (*specs, values, start)

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """An index that leaves room for nearly as many values as the smallest, and as many as fit.

        `BudgetError` names what none takes.
        """
        cells = shape.num_embeddings * shape.embedding_dim
        found: list[tuple[int, Self]] = []
        floor = 0
        for option in self._options(shape):
            fixed = nbytes(option, shape, kept=0)
            each = nbytes(option, shape, kept=1) - fixed
            floor = min(floor or fixed + each, fixed + each)
            kept = min(cells, (nbytes_ - fixed) // each)
            if kept >= 1:
                found.append((kept, option))
        if not found:
            raise BudgetError(
                f"method 'pruned' needs at least {floor:,} bytes for {shape.num_embeddings:,} x "
                f"{shape.embedding_dim}, found a budget of {nbytes_:,}; raise it or choose a smaller method"
            )
        most = max(kept for kept, _ in found)
        kept, option = next((kept, option) for kept, option in found if kept >= _NEARLY * most)
        return dataclasses.replace(option, density=kept / cells)

    def _options(self, shape: TableShape) -> list[Self]:
        """What a budget chooses from, the faster first: `index` and `rows_per_start` stay where they are given."""
        if self.index != "auto" or self.rows_per_start > 1:
            return [self.resolve(shape)]
        indexes: list[tuple[Literal["bitmap", "columns", "cells"], int]]
        indexes = [("bitmap", 1), ("columns", 1), ("bitmap", _RUN)]
        for cells in (1 << 8, 1 << 16):  # as many rows as an index of one byte, or two, tells the cells of apart
            rows = cells // shape.embedding_dim
            indexes += [("cells", 1 << rows.bit_length() - 1)] if rows > 1 else []
        return [dataclasses.replace(self, index=index, rows_per_start=run).resolve(shape) for index, run in indexes]

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        """The threshold, for `encode` alone: `_threshold` (2,), bits of the smallest magnitude that is kept and of the
        one that is kept in the first `_tie_rows` rows too.

        It is found exactly: a histogram of the upper 16 bits of all magnitudes, whose order is that of their bits,
        then one of the lower 16 bits of those that share the upper ones of the threshold.
        """
        quota = self._kept(source.shape)
        high = np.zeros(1 << 16, np.int64)
        for rows in source.blocks():
            high += np.bincount((_magnitudes(rows) >> np.uint32(16)).ravel(), minlength=1 << 16)
        prefix, above = _crossing(high, quota)
        low = np.zeros(1 << 16, np.int64)
        if prefix >= 0:
            for rows in source.blocks():
                bits = _magnitudes(rows)
                same = bits[bits >> np.uint32(16) == prefix] & np.uint32(0xFFFF)
                low += np.bincount(same, minlength=1 << 16)
            suffix, above = _crossing(low, quota, above)
            tie = (prefix << 16) + suffix
            ties = int(low[suffix])
        else:
            tie, ties = -1, 0
        threshold = np.array([tie + 1, max(tie, 0)], np.uint32)
        room = quota - above
        tie_rows = 0
        if ties and room * _SLACK > quota:
            tie_rows = _rows_of_ties(source, np.uint32(tie), room)
        return {"_threshold": threshold, "_tie_rows": np.array([tie_rows], np.int64)}

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        bits = _magnitudes(rows)
        tied = ids < shared["_tie_rows"][0]
        keep = bits >= np.where(tied, shared["_threshold"][1], shared["_threshold"][0])[:, None]
        return self.pack(keep, rows, ids)

    def pack(self, keep: npt.NDArray[np.bool_], rows: FloatRows, ids: Ids) -> Named:
        """The arrays of `rows` of which the values at `keep`, a mask of their shape, are kept; pure, row by row.

        `ids` (n,) are ascending without gaps.
        """
        counts = keep.sum(axis=1)
        start = (np.cumsum(counts) - counts).astype(self.start_dtype or "uint32")
        within = ids % self.rows_per_start
        named: Named = {"start": start[within == 0]}
        dim = rows.shape[1]
        if self.index == "cells":
            row, column = np.nonzero(keep)
            named["cells"] = (within[row] * dim + column).astype(_column_dtype(self.rows_per_start * dim))
        elif self.index == "columns":
            named["count"] = counts.astype(_column_dtype(dim + 1))
            named["columns"] = np.nonzero(keep)[1].astype(_column_dtype(dim))
        else:
            named["mask"] = np.packbits(keep, axis=1, bitorder="little")
        with np.errstate(all="ignore"):
            if self.values == "int8":
                named["scale"], codes = _eight_bits(rows)
                named["values"] = codes[keep]
            else:
                named["values"] = rows[keep].astype(self.values)
        return named

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse values too large for float16; `ConfigError` names the first."""
        if self.values == "int8":
            check_scales(self.id, encoded["scale"], first_row, "float16", "use values='float32'")
        elif self.values == "float16" and np.isinf(encoded["values"]).any():
            lost = np.isfinite(rows) & (np.abs(rows) >= 65520)
            if lost.any():
                row, column = (int(i) for i in np.argwhere(lost)[0])
                raise ConfigError(
                    f"values of pruned are float16 and at most 65504, found {rows[row, column]:g} in row "
                    f"{first_row + row}; use values='float32'"
                )

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        dim = out.shape[1]
        at = ids - arrays.start
        if self.index == "cells":
            row, column, place = self._cells(arrays, ids, dim)
        elif self.index == "columns":
            counts = arrays["count"][at].astype(np.int64)
            row = np.repeat(np.arange(len(ids)), counts)
            place = np.arange(len(row)) + np.repeat(
                arrays["start"][at].astype(np.int64) - (np.cumsum(counts) - counts), counts
            )
            column = arrays["columns"][place].astype(np.int64)
        else:
            keep = np.unpackbits(arrays["mask"][at].astype(np.uint8), axis=1, count=dim, bitorder="little")
            row, column = np.nonzero(keep)
            start = self._starts_of_rows(arrays, ids)
            place = start[row] + (np.cumsum(keep, axis=1, dtype=np.int64) - 1)[row, column]
        values = arrays["values"][place].astype(np.float32)
        if self.values == "int8":
            values = values * arrays["scale"][at].astype(np.float32)[row]
        out[:] = 0
        out[row, column] = values

    def _starts_of_rows(self, arrays: Arrays, ids: Ids) -> npt.NDArray[np.int64]:
        """Where the values of rows of a bitmap begin: a start, and the bits of the rows of its run that come before."""
        if self.rows_per_start == 1:
            return arrays["start"][ids - arrays.start].astype(np.int64)
        start = arrays["start"][ids // self.rows_per_start].astype(np.int64)
        first = ids - ids % self.rows_per_start
        if (first < arrays.start).any():
            raise ShapeError(
                f"a shard must hold whole runs of {self.rows_per_start} rows, found one that starts at row "
                f"{arrays.start}; write the table again"
            )
        for k in range(self.rows_per_start - 1):
            before = first + k < ids
            masks = arrays["mask"][first[before] + k - arrays.start].astype(np.uint8)
            start[before] += np.unpackbits(masks, axis=1).sum(axis=1, dtype=np.int64)
        return start

    def _cells(self, arrays: Arrays, ids: Ids, dim: int) -> tuple[Ids, Ids, Ids]:
        """For each value of rows `ids`: which of them it is of, its column, its place among the values."""
        start = np.append(arrays["start"].astype(np.int64), len(arrays["cells"]))
        row, column, place = [], [], []
        for i, id_ in enumerate(ids):
            run, within = divmod(int(id_), self.rows_per_start)
            cells = arrays["cells"][start[run] : start[run + 1]].astype(np.int64)
            first, last = np.searchsorted(cells, [within * dim, (within + 1) * dim])
            row.append(np.full(last - first, i))
            column.append(cells[first:last] - within * dim)
            place.append(np.arange(start[run] + first, start[run] + last))
        empty = np.zeros(0, np.int64)
        return tuple(np.concatenate([empty, *parts]) for parts in (row, column, place))  # type: ignore[return-value]


def _column_dtype(columns: int) -> str:
    """The narrowest dtype that can tell `columns` columns apart."""
    return "uint8" if columns <= 1 << 8 else "uint16" if columns <= 1 << 16 else "uint32"


def _magnitudes(rows: FloatRows) -> U32:
    """The bits of |x|, in whose order magnitudes are; NaN comes last."""
    return np.ascontiguousarray(rows).view(np.uint32) & _MAGNITUDE


def _crossing(histogram: npt.NDArray[np.int64], quota: int, above: int = 0) -> tuple[int, int]:
    """The highest bin that does not fit into `quota` with all above it, and how many are above; -1 if all fit.

    `above` are there already.
    """
    totals = above + np.cumsum(histogram[::-1])
    at = int(np.searchsorted(totals, quota, side="right"))
    if at == len(histogram):
        return -1, int(totals[-1])
    return len(histogram) - 1 - at, int(totals[at] - histogram[len(histogram) - 1 - at])


def _rows_of_ties(source: Rows, tie: np.uint32, room: int) -> int:
    """The first rows that have at most `room` values of the magnitude `tie`."""
    seen = first = 0
    for rows in source.blocks():
        totals = seen + np.cumsum((_magnitudes(rows) == tie).sum(axis=1))
        if totals[-1] > room:
            return first + int(np.searchsorted(totals, room, side="right"))
        seen, first = int(totals[-1]), first + len(rows)
    return first


def _eight_bits(rows: FloatRows) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]:
    """Scales (n,) and codes (n, dim) of whole rows: the largest of a row is always kept, if any value is."""
    scale = (np.abs(rows).max(axis=1) / np.float32(127)).astype(np.float16)
    usable = np.isfinite(scale) & (scale > 0)
    divisor = np.where(usable, scale, np.float16(1)).astype(np.float32)[:, None]
    codes = np.clip(np.rint(np.where(usable[:, None], rows, np.float32(0)) / divisor), -127, 127)
    return np.where(np.isfinite(rows).all(axis=1), scale, np.float16(np.nan)), codes.astype(np.int8)
