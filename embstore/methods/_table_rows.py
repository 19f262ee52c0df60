"""Rows of the small tables inside methods: values, or the codes of int8 or int4 with one scale and offset a row.

csrc/methods/_table_rows.h reads them. A coded row is one run of bytes, so that an address computed from an id is one
cache line where rows are short: scale, offset (float16), codes as `Int8` and `Int4` have them, a zero byte where needed
to end on an even one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..arrays import ArraySpec, TableShape
from ..errors import ConfigError
from ..method import RowMethod
from ._affine import AffineMethod
from ._bits import packed_bytes, unpack
from ._trained import TrainedMethod
from .int4 import Int4
from .int8 import Int8

F32 = npt.NDArray[np.float32]
TableDtype = Literal["float32", "int8", "int4"]

_CODES: dict[str, type[AffineMethod]] = {"int8": Int8, "int4": Int4}
CODED = tuple(_CODES)
_STEP_BYTES = 4


@dataclasses.dataclass(frozen=True)
class RowCoding:
    """How rows are stored: `kind` is "float32", "float16", "int8" or "int4"."""

    kind: str

    @property
    def coded(self) -> bool:
        """Whether rows are codes, which stand for other values than they were made from."""
        return self.kind in _CODES

    @property
    def dtype(self) -> str:
        """Of the stored array."""
        return "uint8" if self.coded else self.kind

    def items(self, width: int) -> int:
        """Items of the stored array that a row of `width` values takes."""
        if not self.coded:
            return width
        codes = packed_bytes(width, _CODES[self.kind].bits)
        return _STEP_BYTES + codes + codes % 2

    def nbytes(self, width: int) -> int:
        """Bytes of a stored row of `width` values."""
        return self.items(width) * np.dtype(self.dtype).itemsize

    def spec(self, name: str, rows: int, width: int) -> ArraySpec:
        """The shared array of so many rows of `width` values."""
        return ArraySpec(name, self.dtype, (rows, self.items(width)), "shared")

    def encode(self, rows: F32) -> npt.NDArray[Any]:
        """Rows (n, width) as they are stored, (n, items)."""
        n, width = rows.shape
        if not self.coded:
            with np.errstate(over="ignore"):
                return np.ascontiguousarray(rows, self.kind)
        method: RowMethod = _CODES[self.kind]().resolve(TableShape(n, width))
        encoded = method.encode({}, np.arange(n), np.ascontiguousarray(rows, np.float32))
        stored = np.zeros((n, self.items(width)), np.uint8)
        codes = encoded["codes"]
        stored[:, :_STEP_BYTES] = encoded["affine"].astype("<f2").reshape(n, 2).view(np.uint8)
        stored[:, _STEP_BYTES : _STEP_BYTES + codes.shape[1]] = codes
        return stored

    def decode(self, stored: npt.NDArray[Any], width: int) -> F32:
        """Stored rows (n, items) as the kernels read them: (n, width)."""
        if not self.coded:
            return stored.astype(np.float32, copy=False)
        bits = _CODES[self.kind].bits
        steps = np.ascontiguousarray(stored[:, :_STEP_BYTES]).view("<f2").astype(np.float32)
        codes = stored[:, _STEP_BYTES : _STEP_BYTES + packed_bytes(width, bits)]
        values = (codes if bits == 8 else unpack(codes, bits, width)).astype(np.float32)
        values *= steps[:, :1]
        values += steps[:, 1:]
        return values


def check_table_dtype(name: str, value: object) -> None:
    """`ConfigError` for a `table_dtype` of method or module `name` that there is not."""
    if value not in ("float32", *CODED):
        raise ConfigError(f"table_dtype of {name} must be 'float32', 'int8' or 'int4', found {value!r}; choose one")


@dataclasses.dataclass(frozen=True)
class CodedTables(TrainedMethod):
    """Base of the methods whose tables may be stored as codes, chosen before training or after.

    Parameters
    ----------
    table_dtype : "float32", or "int8" or "int4": each stored row as codes with one scale and offset. Training keeps
        float32 weights; in evaluation the module gives the rows that the codes stand for.
    """

    later: ClassVar[tuple[str, ...]] = ("table_dtype",)

    table_dtype: TableDtype = "float32"

    def __post_init__(self) -> None:
        check_table_dtype(self.id, self.table_dtype)

    @property
    def coding(self) -> RowCoding:
        """How the rows of its tables are stored."""
        return RowCoding(self.table_dtype)
