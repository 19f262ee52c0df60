"""Rows of their own for frequent ids: see `embstore.methods.adapt`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..methods.adapt import Adapt as AdaptMethod
from ._hashing import reduce, scramble
from ._signs import SignedEmbedding
from .base import array


class Adapt(SignedEmbedding):
    """The ids of highest `counts` are hot, the smaller id first where counts are equal; the split stays as it is."""

    id: ClassVar[str] = "adapt"
    needs_counts: ClassVar[bool] = True

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(AdaptMethod, self.method)
        if counts is None:
            raise ConfigError("method 'adapt' needs counts, how often each id occurs; pass counts=")
        hot, cold = method.rows
        hot_ids = np.sort(np.argsort(-counts.astype(np.float64), kind="stable")[:hot])
        self.table = self._uniform(hot + cold, self.embedding_dim, bound=self._bound)
        self._build_signs()
        if method.map == "hot_ids":
            self.register_buffer("hot_ids", torch.from_numpy(hot_ids))
        else:
            # int32 halves what training keeps; torch has no lookup by uint32.
            dtype = np.int32 if hot + cold <= 2**31 - 1 else np.int64
            self.register_buffer("map", torch.from_numpy(method.map_of(self.shape, hot_ids).astype(dtype)))

    def rows(self, ids: Tensor) -> Tensor:
        at = self._places(ids)
        rows = nn.functional.embedding(at, self._read(self.table))
        return signed_cold(self, rows, ids, at) if self._signed else rows

    def _places(self, ids: Tensor) -> Tensor:
        """The stored row of each id."""
        method = cast(AdaptMethod, self.method)
        if method.map == "table":
            return cast(Tensor, self.map)[ids]
        hot = method.rows[0]
        shared = cold_rows(method, ids)
        if hot == 0:
            return shared
        hot_ids = cast(Tensor, self.hot_ids)
        at = torch.searchsorted(hot_ids, ids.contiguous()).clamp_(max=hot - 1)
        return torch.where(hot_ids[at] == ids, at, shared)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(AdaptMethod, self.method)
        name = "hot_ids" if method.map == "hot_ids" else "map"
        dtype = next(spec.dtype for spec in method.layout(self.shape) if spec.name == name)
        return {
            "table": method.coding.encode(array(self.table)),
            name: array(cast(Tensor, getattr(self, name))).astype(dtype),
        }


def cold_rows(method: AdaptMethod, ids: Tensor) -> Tensor:
    """The stored row that each id has where it is not hot, without a map of all ids."""
    hot, cold = method.rows
    return hot + (ids % cold if method.sign else reduce(scramble(ids, method.seed), cold))


def signed_cold(module: SignedEmbedding, rows: Tensor, ids: Tensor, at: Tensor) -> Tensor:
    """Rows of `ids`, which lie at `at`, with the signs of those that are cold."""
    hot, cold = cast(AdaptMethod, module.method).rows
    return module._with_signs(rows, torch.where(at < hot, 0, ids // cold))
