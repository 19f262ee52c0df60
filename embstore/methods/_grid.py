"""Shared by rabitq, turboquant and binary: value = +-level * scale, levels fixed, one scale for a row.

Encoding looks for the scale whose nearest levels point most nearly along the row, and stores the least-squares factor
of those levels. The numpy code is the reference of `csrc/methods/_grid.h`, operation by operation: float32 throughout,
sums over 16 lanes in a fixed order, so that both give the same bytes.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named, RowMethod
from ._bits import pack, packed_bytes, unpack
from ._scales import check_scales, lane_sum, pad_to_lanes

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


class GridMethod(RowMethod):
    """Base: code c < 2**(bits-1) stands for a negative level, the others for positive ones.

    A row that holds a NaN or an infinity decodes to NaN as a whole; a zero row is exact.
    """

    largest_bits: ClassVar[int]

    bits: int
    scale_dtype: str | None  # None: no scale is stored, values are the levels

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 1 <= self.bits <= self.largest_bits:
            raise ConfigError(f"bits of {self.id} must be from 1 to {self.largest_bits}, found {self.bits!r}")
        if self.scale_dtype not in ("float16", "float32"):
            raise ConfigError(f"scale_dtype of {self.id} must be 'float16' or 'float32', found {self.scale_dtype!r}")

    @abc.abstractmethod
    def levels(self) -> F32:
        """The 2**(bits-1) positive levels, ascending."""

    @abc.abstractmethod
    def thresholds(self) -> F32:
        """What lies between levels: a value is coded by the number of thresholds below |value| / scale."""

    @abc.abstractmethod
    def trials(self) -> F32:
        """Scales to try, as multiples of `start`."""

    @abc.abstractmethod
    def start(self, size: F32, dim: int) -> F32:
        """A scale for rows of `dim` magnitudes, padded with zeros to whole lanes; zero for zero rows."""

    def options(self) -> list[Self]:
        """The configs a budget chooses from, largest first."""
        return [
            dataclasses.replace(self, bits=bits, scale_dtype=dtype)  # type: ignore[type-var]
            for bits in range(self.largest_bits, 0, -1)
            for dtype in ("float32", "float16")
        ]

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n = shape.num_embeddings
        codes = ArraySpec("codes", "uint8", (n, packed_bytes(shape.embedding_dim, self.bits)), "rows")
        return (codes, ArraySpec("scale", self.scale_dtype, (n,), "rows")) if self.scale_dtype else (codes,)

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        """The most bits (then the wider scale) that fit; `BudgetError` names the floor."""
        costs = [(sum(a.nbytes() for a in o.layout(shape)), o) for o in self.options()]
        for cost, option in costs:
            if cost <= nbytes:
                return option
        raise BudgetError(
            f"{self.id} needs at least {costs[-1][0]:,} bytes for {shape}, found a budget of {nbytes:,}; "
            "raise it or take fewer dims, as in 'pca64,rotate,rabitq1'",
            floor=costs[-1][0],
        )

    def constants(self, shared: Mapping[str, npt.NDArray[Any]]) -> Named:
        levels = self.levels()
        table = np.concatenate([-levels[::-1], levels])
        return {
            # Repeated to 16 values: the kernels look codes up with whatever bits lie above them.
            "table": np.tile(table, max(1, 16 >> self.bits)),
            "levels": levels,
            "thresholds": self.thresholds(),
            "trials": self.trials(),
        }

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        dim = rows.shape[1]
        bad = np.asarray(~np.isfinite(rows).all(axis=1))
        x, back = normalized(np.where(bad[:, None], np.float32(0), rows))
        index, scale = self.choose(pad_to_lanes(np.abs(x), 0.0), dim)
        half = 1 << (self.bits - 1)
        index = index[:, :dim]
        named: Named = {"codes": pack(np.where(x < 0, half - 1 - index, half + index).astype(np.uint8), self.bits)}
        if self.scale_dtype:
            with np.errstate(over="ignore", under="ignore"):
                whole = (scale * back) * back
                named["scale"] = np.where(bad, np.float32(np.nan), whole).astype(self.scale_dtype)
        return named

    def choose(self, size: F32, dim: int) -> tuple[I32, F32]:
        """The index of each magnitude's level and the factor of each row, for rows as `start` takes them."""
        keep = np.zeros(size.shape[1], np.float32)
        keep[:dim] = 1
        start = self.start(size, dim)
        start = np.where(start > 0, start, np.float32(1))
        best = np.full(len(size), -1, np.float32)
        best_scale = np.zeros(len(size), np.float32)
        best_index = np.zeros(size.shape, np.int32)
        for trial in self.trials():
            index = self.index(size * (np.float32(1) / (start * trial))[:, None])
            level = self.levels()[index] * keep
            along, length = lane_sum(size * level), lane_sum(level * level)
            gain = (along / length) * along
            better = gain > best
            best = np.where(better, gain, best)
            best_scale = np.where(better, along / length, best_scale)
            best_index = np.where(better[:, None], index, best_index)
        return best_index, best_scale

    def index(self, scaled: F32) -> I32:
        """The index of the level of each magnitude, in units of the scale."""
        index = np.zeros(scaled.shape, np.int32)
        for threshold in self.thresholds():
            index += threshold < scaled
        return index

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse rows too large for the scale's dtype; `ConfigError` names the first."""
        if self.scale_dtype:
            check_scales(self.id, encoded["scale"], first_row, self.scale_dtype)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        at = ids - arrays.start
        table = self.constants({})["table"]
        out[:] = table[unpack(arrays["codes"][at], self.bits, out.shape[1])]
        if self.scale_dtype:
            out *= arrays["scale"][at].astype(np.float32)[:, None]


def normalized(rows: F32) -> tuple[F32, F32]:
    """(x, back): finite rows brought near 1 by powers of two, and `back`, of which (x * back) * back are the rows.

    So squares neither overflow nor vanish, whatever the rows.
    """
    top = np.abs(rows).max(axis=1, initial=0)
    half = np.frexp(top)[1] // 2
    forth, back = np.ldexp(np.float32(1), -half), np.ldexp(np.float32(1), half)
    with np.errstate(under="ignore"):
        return (rows * forth[:, None]) * forth[:, None], back
