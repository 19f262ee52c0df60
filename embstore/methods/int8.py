"""8-bit uniform codes per row or block: a quarter of float32, the default.

Formulas: docs/format.md, "Methods". Range search by alternating least squares, as in Lloyd's method
with uniform levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import AffineMethod


@dataclass(frozen=True)
class Int8(AffineMethod):
    """8-bit uniform codes per row or block: a quarter of float32, the default.

    Config and bounds: see `AffineMethod`.
    """

    id: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8
