"""The first values of each row (Matryoshka representations, Kusupati et al., NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ..errors import ConfigError
from ..method import FloatRows
from ..transform import F32, Shared, Transform


@dataclass(frozen=True)
class Truncate(Transform):
    """The first `dim` values of each row, scaled back to unit length; the table then has `dim` values a row.

    For models trained so that prefixes are embeddings themselves. For others `pca` first, or alone.

    Parameters
    ----------
    dim : values kept; must be given.
    renormalize : scale the prefix to length 1; a row whose prefix is zero stays zero.
    """

    id: ClassVar[str] = "truncate"
    shorthand: ClassVar[tuple[str, ...]] = ("dim",)

    dim: int | None = None
    renormalize: bool = True

    def __post_init__(self) -> None:
        if type(self.dim) is not int or self.dim < 1:
            raise ConfigError(f"truncate needs dim, the number of values to keep, found {self.dim!r}; try truncate64")
        if not isinstance(self.renormalize, bool):
            raise ConfigError(f"renormalize of truncate must be true or false, found {self.renormalize!r}")

    def resolve(self, dim: int) -> Self:
        if self.code_dim(dim) > dim:
            raise ConfigError(f"dim of truncate must be at most the {dim} values of a row, found {self.dim}")
        return self

    def code_dim(self, dim: int) -> int:
        assert self.dim is not None  # __post_init__ refused it
        return self.dim

    def row_dim(self, dim: int) -> int:
        return self.code_dim(dim)

    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        kept = np.array(rows[:, : self.dim], np.float32)
        if self.renormalize:
            norms = np.sqrt(np.square(kept, dtype=np.float64).sum(axis=1))
            kept /= np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None]
        return kept

    def undo(self, shared: Shared, codes: FloatRows, weights: F32 | None = None) -> FloatRows:
        return codes

    def adjoint(self, shared: Shared, queries: FloatRows) -> tuple[FloatRows, F32]:
        return queries, np.zeros(len(queries), np.float32)
