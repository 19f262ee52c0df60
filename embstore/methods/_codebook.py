"""Shared by dynamic8 and nf4: value = table[code] * scale of the block."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import ConfigError
from ..method import FloatRows, Ids, Named, RowMethod, Rows
from ._bits import pack, packed_bytes, unpack
from ._scales import check_block_size, check_scales

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CodebookMethod(RowMethod):
    """Fixed codebooks on [-1, 1] with the block's largest magnitude as its scale.

    A block that holds a NaN or an infinity decodes to NaN as a whole; a zero block is exact.
    """

    bits: ClassVar[int]
    scale_dtypes: ClassVar[tuple[str, ...]] = ("float16", "float32")

    block_size: int | None = None
    scale_dtype: str = "float16"

    def __post_init__(self) -> None:
        check_block_size(self.id, self.block_size, multiple=8 // self.bits)
        if self.scale_dtype not in self.scale_dtypes:
            raise ConfigError(
                f"scale_dtype of {self.id} must be one of {', '.join(self.scale_dtypes)}, found {self.scale_dtype!r}; "
                "choose one"
            )

    @classmethod
    @abc.abstractmethod
    def table(cls) -> F32:
        """The codebook, ascending."""

    def resolve(self, shape: TableShape) -> Self:
        """Replace an open or too large `block_size` by the row's length."""
        size = min(self.block_size or shape.embedding_dim, shape.embedding_dim)
        multiple = 8 // self.bits
        return dataclasses.replace(self, block_size=-(-size // multiple) * multiple)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n, dim = shape.num_embeddings, shape.embedding_dim
        blocks = -(-dim // (self.block_size or dim))
        arrays = (
            ArraySpec("codes", "uint8", (n, packed_bytes(dim, self.bits)), "rows"),
            ArraySpec("scale", self.scale_dtype, (n, blocks), "rows"),
        )
        if self.scale_dtype != "uint8":
            return arrays
        return (*arrays, ArraySpec("scale_values", "float32", (256,), "shared"))

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        """Scales of 8 bits need the smallest and largest block of the table: one pass over it."""
        if self.scale_dtype != "uint8":
            return {}
        low, high = np.inf, 0.0
        for rows in source.blocks():
            size = self.block_size or rows.shape[1]
            for start in range(0, rows.shape[1], size):
                top = np.abs(rows[:, start : start + size]).max(axis=1)
                top = top[np.isfinite(top) & (top > 0)]
                if len(top):
                    low, high = min(low, float(top.min())), max(high, float(top.max()))
        if high == 0.0:
            low = high = 1.0
        values = np.empty(256, np.float64)
        values[0], values[255] = 0.0, np.nan
        values[1:255] = np.exp(np.linspace(np.log(low), np.log(high), 254))
        return {"scale_values": values.astype(np.float32)}

    def constants(self, shared: Mapping[str, npt.NDArray[Any]]) -> Named:
        table = self.table()
        # The kernels read the table, then the same table as four planes of bytes.
        planes = np.ascontiguousarray(table.view(np.uint8).reshape(-1, 4).T)
        named: Named = {
            "table": np.concatenate([table.view(np.uint8), planes.ravel()]),
            "midpoints": self.midpoints(),
        }
        if "scale_values" in shared:
            named["scale_midpoints"] = _scale_midpoints(shared["scale_values"])
        return named

    @classmethod
    def midpoints(cls) -> F32:
        table = cls.table()
        return (table[1:] + table[:-1]) / np.float32(2)

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        n, dim = rows.shape
        size = self.block_size or dim
        blocks = -(-dim // size)
        codes = np.empty((n, dim), np.uint8)
        scales = np.empty((n, blocks), self.scale_dtype)
        for block in range(blocks):
            x = rows[:, block * size : (block + 1) * size]
            with np.errstate(invalid="ignore"):
                top = np.fmax.reduce(np.abs(x), axis=1)
            bad = ~np.isfinite(x).all(axis=1)
            if self.scale_dtype == "uint8":
                nearest = 1 + np.searchsorted(_scale_midpoints(shared["scale_values"]), top, side="left")
                scales[:, block] = np.where(bad, 255, np.where(top > 0, nearest, 0))
                scale = shared["scale_values"][scales[:, block]]
            else:
                with np.errstate(over="ignore"):
                    scales[:, block] = np.where(bad, np.nan, top)
                scale = scales[:, block].astype(np.float32)
            usable = ~bad & (scale > 0)
            divisor = np.where(usable, scale, np.float32(1))
            t = np.where(usable[:, None], x, np.float32(0)) / divisor[:, None]
            codes[:, block * size : (block + 1) * size] = np.searchsorted(self.midpoints(), t, side="left")
        return {"codes": pack(codes, self.bits) if self.bits < 8 else codes, "scale": scales}

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse rows too large for the scale's dtype; `ConfigError` names the first."""
        if self.scale_dtype != "uint8":
            check_scales(self.id, encoded["scale"], first_row, self.scale_dtype)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        dim = out.shape[1]
        at = ids - arrays.start
        codes = arrays["codes"][at]
        out[:] = self.table()[unpack(codes, self.bits, dim) if self.bits < 8 else codes]
        scale = arrays["scale"][at]
        decoded = arrays["scale_values"][scale] if self.scale_dtype == "uint8" else scale.astype(np.float32)
        out *= decoded[:, np.arange(dim) // (self.block_size or dim)]


def _scale_midpoints(values: npt.NDArray[Any]) -> F32:
    midpoints: F32 = ((values[2:255] + values[1:254]) / np.float32(2)).astype(np.float32)
    return midpoints
