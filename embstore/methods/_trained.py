"""Shared by the methods whose arrays come from training with a model: they are exported, not fitted."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..arrays import TableShape
from ..errors import ConfigError
from ..method import FloatRows, Ids, Named, RowMethod, Rows


class TrainedMethod(RowMethod):
    """Base of methods that `embstore.nn` trains; `compress` refuses them, naming the trainer."""

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"method {self.id!r} is trained with a model, not made from a finished table; "
            f"use embstore.nn.embedding({self.id!r}, ...) and export, or another method"
        )

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        self._refuse()

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        self._refuse()

    @abc.abstractmethod
    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        """Arrays that a trained table of this shape might have, for the laws: every one of `layout`, random."""


def random_floats(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """What examples fill float arrays with."""
    return rng.standard_normal(shape, dtype=np.float32)
