"""Rows of their own for frequent ids: see `embstore.methods.adapt`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..methods.adapt import Adapt as AdaptMethod
from ._coded import CodedTables
from ._hashing import reduce, scramble
from .base import array


class Adapt(CodedTables):
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
        if method.map == "hot_ids":
            self.register_buffer("hot_ids", torch.from_numpy(hot_ids))
        else:
            # int32 halves what training keeps; torch has no lookup by uint32.
            dtype = np.int32 if hot + cold <= 2**31 - 1 else np.int64
            self.register_buffer("map", torch.from_numpy(method.map_of(self.shape, hot_ids).astype(dtype)))

    def rows(self, ids: Tensor) -> Tensor:
        method = cast(AdaptMethod, self.method)
        if method.map == "table":
            return nn.functional.embedding(cast(Tensor, self.map)[ids], self._read(self.table))
        hot, cold = method.rows
        shared = reduce(scramble(ids, method.seed), cold) + hot
        if hot == 0:
            return nn.functional.embedding(shared, self._read(self.table))
        hot_ids = cast(Tensor, self.hot_ids)
        at = torch.searchsorted(hot_ids, ids.contiguous()).clamp_(max=hot - 1)
        return nn.functional.embedding(torch.where(hot_ids[at] == ids, at, shared), self._read(self.table))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(AdaptMethod, self.method)
        name = "hot_ids" if method.map == "hot_ids" else "map"
        dtype = next(spec.dtype for spec in method.layout(self.shape) if spec.name == name)
        return {
            "table": method.encode_table(array(self.table)),
            name: array(cast(Tensor, getattr(self, name))).astype(dtype),
        }
