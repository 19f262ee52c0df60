"""float32: the values as they are. The baseline, and the way to get keys, maps and checksums alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._float import FloatMethod


@dataclass(frozen=True)
class Float32(FloatMethod):
    """4 bytes a value, lossless; NaN, infinities and denormals are kept."""

    id: ClassVar[str] = "float32"
    dtype: ClassVar[str] = "float32"
