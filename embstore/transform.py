"""What a transform is: a map of rows before a method, undone after it.

Every transform is affine when undone, row = code @ L + weight * b, with weight 1 for a row. So a sum of rows is the
sum of their codes mapped back once, and a dot product with a row is one with its code (`adjoint`).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from .arrays import ArraySpec
from .method import Configured, FloatRows, Method, Named

Shared = Mapping[str, npt.NDArray[Any]]
F32 = npt.NDArray[np.float32]

# Rows a transform learns from, at most: a covariance of 1,024 dims is settled by a hundred thousand.
FIT_ROWS = 1 << 17


class Transform(Configured):
    """Base of transforms: frozen dataclasses that define `id`, `version`, `apply`, `undo`, `adjoint`.

    `dim` below is the number of values a row has before the transform. `companion` is the method of a pipeline that
    ends with this transform.
    """

    companion: ClassVar[str] = ""

    def resolve(self, dim: int) -> Self:
        """Fill what the user left open; `ConfigError` where `dim` does not suit."""
        return self

    def suit(self, method: Method, dim: int) -> Self:
        """Of the last transform: fill what the user left open by the resolved method that follows, of `dim` values.

        Before `resolve`; nothing by default.
        """
        return self

    def code_dim(self, dim: int) -> int:
        """Values of a transformed row."""
        return dim

    def row_dim(self, dim: int) -> int:
        """Values of a row after `undo`: `dim`, but for a transform that is not undone."""
        return dim

    def layout(self, dim: int) -> tuple[ArraySpec, ...]:
        """Stored arrays, all `shared`; none by default."""
        return ()

    def fit(self, sample: FloatRows, rng: np.random.Generator) -> Named:
        """The stored arrays, from at most `FIT_ROWS` rows of the source; nothing to learn by default."""
        return {}

    @abc.abstractmethod
    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        """Rows (n, dim) to codes (n, code_dim); the argument is left as it is."""

    @abc.abstractmethod
    def undo(self, shared: Shared, codes: FloatRows, weights: F32 | None = None) -> FloatRows:
        """Codes (n, code_dim) to rows (n, row_dim), adding `weights` (n,) times the constant part; None is 1.

        The numpy reference of the native kernels: each operation rounds to float32.
        """

    @abc.abstractmethod
    def adjoint(self, shared: Shared, queries: FloatRows) -> tuple[FloatRows, F32]:
        """Queries q (n, row_dim) to (p, c) such that q @ undo(code) = p @ code + c for every code."""
