"""bfloat16: the upper half of a float32, rounded to nearest even, stored as uint16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays
from ..method import FloatRows, Ids, Named
from ._float import FloatMethod


@dataclass(frozen=True)
class BFloat16(FloatMethod):
    """2 bytes a value, relative error at most 2**-8 over the range of float32; NaN and infinities are kept."""

    id: ClassVar[str] = "bfloat16"
    dtype: ClassVar[str] = "uint16"

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        bits = np.ascontiguousarray(rows).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        nan = (bits >> np.uint32(16)) | np.uint32(0x40)
        return {"values": np.where(np.isnan(rows), nan, rounded).astype(np.uint16)}

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        out[:] = (arrays["values"][ids - arrays.start].astype(np.uint32) << np.uint32(16)).view(np.float32)
