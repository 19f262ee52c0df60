"""4-bit uniform codes, two a byte: an eighth of float32.

Formulas: docs/format.md, "Methods". Range search by alternating least squares, as in Lloyd's method
with uniform levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import AffineMethod


@dataclass(frozen=True)
class Int4(AffineMethod):
    """4-bit uniform codes, two a byte: an eighth of float32.

    Config and bounds: see `AffineMethod`.
    """

    id: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4
