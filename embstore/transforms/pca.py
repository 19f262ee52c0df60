"""Principal components: the leading `dim` directions of most variance, in that order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..method import FloatRows
from ..transform import Shared
from ._linear import Projection


@dataclass(frozen=True)
class PCA(Projection):
    """Principal components, the `dim` of most variance first; what they leave out is lost.

    Parameters
    ----------
    dim : components kept; None for all, a rotation.
    """

    id: ClassVar[str] = "pca"
    shorthand: ClassVar[tuple[str, ...]] = ("dim",)

    def _scales(self, variances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.ones_like(variances)

    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        return (rows - shared["mean"]) @ shared["components"].T
