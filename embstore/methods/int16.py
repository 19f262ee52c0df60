"""16-bit uniform codes: half the bytes of float32, an error of about 1e-9 relative; scales default to float32.

Formulas: docs/format.md, "Methods". Range search by alternating least squares, as in Lloyd's method
with uniform levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ._affine import AffineMethod


@dataclass(frozen=True)
class Int16(AffineMethod):
    """16-bit uniform codes: half the bytes of float32, an error of about 1e-9 relative; scales default to float32.

    Config and bounds: see `AffineMethod`.
    """

    id: ClassVar[str] = "int16"
    bits: ClassVar[int] = 16

    scale_dtype: Literal["float16", "float32"] = "float32"
    range: Literal["lse", "minmax"] = "minmax"
