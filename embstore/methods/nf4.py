"""nf4: the 4-bit NormalFloat code (QLoRA, Dettmers et al., NeurIPS 2023), best for rows of normal values."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from ._codebook import F32, CodebookMethod


@dataclass(frozen=True)
class NF4(CodebookMethod):
    """4-bit codes at the quantiles of a normal distribution, a scale per block.

    Parameters
    ----------
    block_size : values that share a scale, along the row; an even number, None for the whole row.
    scale_dtype : "float16", "float32", or "uint8": scales as 8-bit logarithmic codes between the smallest
        and largest of the table (one more pass over the source; about 1 % coarser scales, 1 byte each).
        QLoRA quantizes runs of 256 scales together; rows read at random want each scale on its own.
    """

    id: ClassVar[str] = "nf4"
    bits: ClassVar[int] = 4
    scale_dtypes: ClassVar[tuple[str, ...]] = ("float16", "float32", "uint8")

    block_size: int | None = 64

    @classmethod
    @functools.cache
    def table(cls) -> F32:
        """Quantiles of N(0, 1) at 8 + 1 + 7 points, divided by the largest."""
        offset = 0.9677083
        ppf = NormalDist().inv_cdf
        positive = [ppf(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
        negative = [-ppf(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
        values = np.sort(np.array([*positive, 0.0, *negative]))
        table: F32 = (values / values.max()).astype(np.float32)
        return table
