"""Subtract the mean row: codes around zero suit symmetric and product codes better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import ArraySpec
from ..method import FloatRows, Named
from ..transform import F32, Shared, Transform
from ._linear import constant


@dataclass(frozen=True)
class Center(Transform):
    """Subtract the mean row."""

    id: ClassVar[str] = "center"

    def layout(self, dim: int) -> tuple[ArraySpec, ...]:
        return (ArraySpec("mean", "float32", (dim,), "shared"),)

    def fit(self, sample: FloatRows, rng: np.random.Generator) -> Named:
        mean = sample.mean(axis=0, dtype=np.float64) if len(sample) else np.zeros(sample.shape[1])
        return {"mean": mean.astype(np.float32)}

    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        return rows - shared["mean"]

    def undo(self, shared: Shared, codes: FloatRows, weights: F32 | None = None) -> FloatRows:
        rows: FloatRows = codes + constant(shared["mean"], weights)
        return rows

    def adjoint(self, shared: Shared, queries: FloatRows) -> tuple[FloatRows, F32]:
        return queries, queries @ shared["mean"]
