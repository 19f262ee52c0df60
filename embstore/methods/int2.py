"""2-bit uniform codes, four a byte: a sixteenth of float32; expect a coarse table.

Formulas: docs/format.md, "Methods". Range search by alternating least squares, as in Lloyd's method
with uniform levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import AffineMethod


@dataclass(frozen=True)
class Int2(AffineMethod):
    """2-bit uniform codes, four a byte: a sixteenth of float32; expect a coarse table.

    Config and bounds: see `AffineMethod`.
    """

    id: ClassVar[str] = "int2"
    bits: ClassVar[int] = 2
