"""float16: IEEE half floats, rounded to nearest even (IEEE 754-2008 binary16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..method import FloatRows, Ids, Named
from ._float import FloatMethod


@dataclass(frozen=True)
class Float16(FloatMethod):
    """2 bytes a value, relative error at most 2**-11 between 6.1e-5 and 65504; NaN and infinities are kept.

    A finite value above 65504 is refused: it would become an infinity.
    """

    id: ClassVar[str] = "float16"
    dtype: ClassVar[str] = "float16"

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        with np.errstate(over="ignore"):
            return {"values": rows.astype(np.float16)}

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Raise `ConfigError` naming the first finite value that became an infinity."""
        if np.isinf(encoded["values"]).any():
            lost = np.isinf(encoded["values"]) & np.isfinite(rows)
            if lost.any():
                row, column = (int(i) for i in np.argwhere(lost)[0])
                raise ConfigError(
                    f"float16 holds values up to 65504, found {rows[row, column]:g} in row {first_row + row}; "
                    "use bfloat16 or float32"
                )
