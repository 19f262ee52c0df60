"""turboquant: rotated values by the Lloyd-Max codebook of the normal distribution (Zandieh et al., 2025).

After a rotation the values of a row are nearly normal whatever the row was, so that one codebook suits every table
and nothing is learnt. This is the version of least squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ._grid import F32, GridMethod
from ._scales import lane_sum

# The positive half of the Lloyd-Max levels of N(0, 1): each is the mean of what is nearest to it.
_LEVELS = {
    1: (0.797884561,),
    2: (0.452780035, 1.51041761),
    3: (0.245094179, 0.756005281, 1.34390928, 2.1519457),
    4: (0.12839503, 0.388048299, 0.656759119, 0.942340456, 1.2562312, 1.61804639, 2.06901723, 2.73258957),
}


@dataclass(frozen=True)
class TurboQuant(GridMethod):
    """Normal Lloyd-Max codes of 1 to 4 bits on rotated rows, no training: one scale a row.

    The paper's scale is |row| / sqrt(dim); here it is the best of 16 around that, refitted by least squares, for the
    same bytes: 17 % less squared error at 4 bits and 128 dims, 3 % at 1,024.

    Parameters
    ----------
    bits : bits a value, 1 to 4.
    scale_dtype : "float16" or "float32"; float16 holds scales up to 65504 and down to 6e-8.
    """

    id: ClassVar[str] = "turboquant"
    shorthand: ClassVar[tuple[str, ...]] = ("bits",)
    before: ClassVar[tuple[str, ...]] = ("rotate",)
    largest_bits: ClassVar[int] = 4

    bits: int = 4
    scale_dtype: str = "float16"

    def levels(self) -> F32:
        return np.array(_LEVELS[self.bits], np.float32)

    def thresholds(self) -> F32:
        levels = self.levels()
        return (levels[1:] + levels[:-1]) / np.float32(2)

    def trials(self) -> F32:
        return np.linspace(0.7, 1.3, 16).astype(np.float32) if self.bits > 1 else np.ones(1, np.float32)

    def start(self, size: F32, dim: int) -> F32:
        scale: F32 = np.sqrt(lane_sum(size * size) / np.float32(dim))
        return scale
