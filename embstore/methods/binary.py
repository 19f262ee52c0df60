"""binary: the sign of each value, a 32nd of float32."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ..errors import ConfigError
from ._grid import F32, GridMethod


@dataclass(frozen=True)
class Binary(GridMethod):
    """The sign of each value and, for lookups, the row's mean magnitude: the least-squares scale of signs.

    For values around zero: `center,rotate,binary` or `pca,binary` prepare tables that are not.

    Parameters
    ----------
    scale_dtype : "float16", "float32", or None for signs alone: every value is then -1 or 1, which cosine search does
        not mind. Zero counts as positive, and without a scale so does NaN.
    """

    id: ClassVar[str] = "binary"
    largest_bits: ClassVar[int] = 1
    bits: ClassVar[int] = 1  # type: ignore[misc]

    scale_dtype: str | None = "float16"

    def __post_init__(self) -> None:
        if self.scale_dtype not in ("float16", "float32", None):
            raise ConfigError(f"scale_dtype of binary must be 'float16', 'float32' or None, found {self.scale_dtype!r}")

    def options(self) -> list[Self]:
        return [dataclasses.replace(self, scale_dtype=dtype) for dtype in ("float32", "float16", None)]

    def levels(self) -> F32:
        return np.ones(1, np.float32)

    def thresholds(self) -> F32:
        return np.zeros(0, np.float32)

    def trials(self) -> F32:
        return np.ones(1, np.float32)

    def start(self, size: F32, dim: int) -> F32:
        return np.ones(len(size), np.float32)
