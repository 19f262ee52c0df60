"""Rows of the small tables of trained methods: float32, or the codes of int8 or int4 with one scale and offset a row.

csrc/methods/_table_rows.h reads them. A coded row is one run of bytes, so that an address computed from an id is one
cache line where rows are short: scale, offset (float16), codes as `Int8` and `Int4` have them, a zero byte where needed
to end on an even one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

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
_STEP_BYTES = 4


@dataclasses.dataclass(frozen=True)
class CodedTables(TrainedMethod):
    """Base of the methods whose tables may be stored as codes, chosen before training or after.

    Parameters
    ----------
    table_dtype : "float32", or "int8" or "int4": each stored row as codes with one scale and offset. Training keeps
        float32 weights; in evaluation the module gives the rows that the codes stand for.
    """

    table_dtype: TableDtype = "float32"

    def __post_init__(self) -> None:
        if self.table_dtype not in ("float32", *_CODES):
            raise ConfigError(
                f"table_dtype of {self.id} must be 'float32', 'int8' or 'int4', found {self.table_dtype!r}; choose one"
            )

    def config(self) -> dict[str, Any]:
        """The config as a JSON-able dict; without `table_dtype` where it is float32, as before there were others."""
        fields = super().config()
        if self.table_dtype == "float32":
            del fields["table_dtype"]
        return fields

    def row_bytes(self, width: int) -> int:
        """Bytes of a stored row of `width` values."""
        if self.table_dtype == "float32":
            return 4 * width
        codes = packed_bytes(width, _CODES[self.table_dtype].bits)
        return _STEP_BYTES + codes + codes % 2

    def table_spec(self, name: str, rows: int, width: int) -> ArraySpec:
        if self.table_dtype == "float32":
            return ArraySpec(name, "float32", (rows, width), "shared")
        return ArraySpec(name, "uint8", (rows, self.row_bytes(width)), "shared")

    def encode_table(self, rows: F32) -> npt.NDArray[Any]:
        """Rows (n, width) as they are stored."""
        n, width = rows.shape
        if self.table_dtype == "float32":
            return np.ascontiguousarray(rows, np.float32)
        method: RowMethod = _CODES[self.table_dtype]().resolve(TableShape(n, width))
        encoded = method.encode({}, np.arange(n), np.ascontiguousarray(rows, np.float32))
        stored = np.zeros((n, self.row_bytes(width)), np.uint8)
        codes = encoded["codes"]
        stored[:, :_STEP_BYTES] = encoded["affine"].astype("<f2").reshape(n, 2).view(np.uint8)
        stored[:, _STEP_BYTES : _STEP_BYTES + codes.shape[1]] = codes
        return stored

    def decode_table(self, stored: npt.NDArray[Any], width: int) -> F32:
        """Stored rows (n, bytes) as the kernels read them: (n, width)."""
        if self.table_dtype == "float32":
            return stored
        bits = _CODES[self.table_dtype].bits
        steps = np.ascontiguousarray(stored[:, :_STEP_BYTES]).view("<f2").astype(np.float32)
        codes = stored[:, _STEP_BYTES : _STEP_BYTES + packed_bytes(width, bits)]
        values = (codes if bits == 8 else unpack(codes, bits, width)).astype(np.float32)
        values *= steps[:, :1]
        values += steps[:, 1:]
        return values
