"""Principal components divided by their standard deviation (BERT-whitening, 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..method import FloatRows
from ..transform import Shared
from ._linear import Projection


@dataclass(frozen=True)
class Whiten(Projection):
    """Principal components divided by their standard deviation, so that a code spends as much on each.

    Errors of codes come back multiplied by it: prefer `pca` where reconstruction matters. Stored `components` hold
    the deviation: undoing is one product.

    Parameters
    ----------
    dim : components kept; None for all.
    eps : added to each variance, relative to the mean variance, so that an empty direction is not blown up.
    """

    id: ClassVar[str] = "whiten"
    shorthand: ClassVar[tuple[str, ...]] = ("dim",)

    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.eps, bool) or not isinstance(self.eps, (int, float)) or not 0 < self.eps < 1:
            raise ConfigError(f"eps of whiten must be between 0 and 1, found {self.eps!r}; 1e-6 suits most")

    def _scales(self, variances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        floor = self.eps * (variances.mean() if variances.any() else 1.0)
        return np.sqrt(variances + floor)

    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        components = shared["components"]
        variances = np.square(components).sum(axis=1, dtype=np.float64).astype(np.float32)
        codes: FloatRows = (rows - shared["mean"]) @ components.T / variances
        return codes
