"""dynamic8: the block-wise dynamic 8-bit code (Dettmers et al., ICLR 2022).

Better than int8 on rows with a few large values: the code spends its steps logarithmically, seven
decades deep, so small values keep a relative precision.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ._codebook import F32, CodebookMethod


@dataclass(frozen=True)
class Dynamic8(CodebookMethod):
    """8-bit codes that are finer near zero, a scale per row or block.

    Parameters
    ----------
    block_size : values that share a scale, along the row; None for the whole row.
    scale_dtype : "float16" or "float32".
    """

    id: ClassVar[str] = "dynamic8"
    bits: ClassVar[int] = 8

    @classmethod
    @functools.cache
    def table(cls) -> F32:
        """For i = 0..6 the means of neighbours among 2**i + 1 points on [0.1, 1], times ±10**(i-6); 0; 1."""
        values = [0.0, 1.0]
        for i in range(7):
            points = np.linspace(0.1, 1.0, 2**i + 1)
            means = (points[1:] + points[:-1]) / 2 * 10.0 ** (i - 6)
            values += [*means, *-means]
        return np.sort(np.array(values)).astype(np.float32)
