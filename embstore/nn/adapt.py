"""Rows of their own for frequent ids: see `embstore.methods.adapt`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ConfigError
from ..methods.adapt import Adapt as AdaptMethod
from . import _ops, _rows
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
        method = cast(AdaptMethod, self.method)
        by_map, (hot, cold) = method.map == "table", method.rows
        where: Any = self.map if by_map else self.hot_ids
        fixed = [where, cast(Tensor, self.signs)] if self._signed else [where]
        settings = (by_map, hot, cold, method.seed, self._signed)
        return _ops.adapt(ids, [self._read(self.table)], fixed, self.num_embeddings, *settings)

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
    return _rows.cold_rows(ids, *method.rows, method.seed, method.sign)


def signed_cold(module: SignedEmbedding, rows: Tensor, ids: Tensor, at: Tensor) -> Tensor:
    """Rows of `ids`, which lie at `at`, with the signs of those that are cold."""
    signs, method = cast(Tensor, module.signs), cast(AdaptMethod, module.method)
    return rows * _rows.cold_signs(signs, ids, at, *method.rows)
