"""Shared by center, pca, whiten, opq: codes to rows by a matrix and a mean, as csrc/transforms/_linear.h has it."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..arrays import ArraySpec
from ..errors import ConfigError
from ..method import FloatRows, Named
from ..products import gram, leading, multiply
from ..transform import F32, Shared, Transform


def constant(mean: npt.NDArray[Any], weights: F32 | None) -> npt.NDArray[Any]:
    """`weights` times the mean, a row each; the mean itself for None."""
    return mean if weights is None else weights[:, None] * mean


def principal(sample: FloatRows, dim: int) -> tuple[npt.NDArray[np.float64], ...]:
    """(mean, `dim` leading eigenvectors of the covariance as rows, all eigenvalues descending), in float64."""
    x = sample[np.isfinite(sample).all(axis=1)].astype(np.float64)
    mean = x.mean(axis=0) if len(x) else np.zeros(sample.shape[1])
    x -= mean
    components, variances = leading(gram(x) / max(len(x), 1), dim)
    return mean, components, variances


@dataclass(frozen=True)
class Projection(Transform):
    """Base of pca and whiten: `components` (dim, row length), `mean`.

    Parameters
    ----------
    dim : values kept; None for all.
    """

    dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim is not None and (type(self.dim) is not int or self.dim < 1):
            raise ConfigError(f"dim of {self.id} must be a positive integer, found {self.dim!r}; leave it out for all")

    def resolve(self, dim: int) -> Self:
        if self.dim is not None and self.dim > dim:
            raise ConfigError(f"dim of {self.id} must be at most the {dim} values of a row, found {self.dim}")
        return dataclasses.replace(self, dim=self.dim or dim)

    def code_dim(self, dim: int) -> int:
        return self.dim or dim

    def layout(self, dim: int) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("mean", "float32", (dim,), "shared"),
            ArraySpec("components", "float32", (self.code_dim(dim), dim), "shared"),
        )

    @abc.abstractmethod
    def _scales(self, variances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What each component is multiplied by."""

    def fit(self, sample: FloatRows, rng: np.random.Generator) -> Named:
        k = self.code_dim(sample.shape[1])
        mean, components, variances = principal(sample, k)
        scaled = components * self._scales(variances)[:k, None]
        return {"mean": mean.astype(np.float32), "components": scaled.astype(np.float32)}

    def undo(self, shared: Shared, codes: FloatRows, weights: F32 | None = None) -> FloatRows:
        rows: F32 = multiply(codes, shared["components"]) + constant(shared["mean"], weights)
        return rows

    def adjoint(self, shared: Shared, queries: FloatRows) -> tuple[FloatRows, F32]:
        return queries @ shared["components"].T, queries @ shared["mean"]
