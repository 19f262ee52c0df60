"""Random offset block embedding: see `embstore.methods.robe`."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import numpy.typing as npt
from torch import Tensor

from ..method import Method
from ..methods.robe import Robe as RobeMethod
from . import _ops
from ._coded import F32, CodedEmbedding
from .base import Asked, array


class Robe(CodedEmbedding):
    """Rows are runs of one pool, under hashed signs unless sign=False; overlapping runs add up their gradients."""

    id: ClassVar[str] = "robe"

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        return super().solve(dataclasses.replace(asked, config={"sign": True, **asked.config}))

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(RobeMethod, self.method)
        self._factors = method.factors()  # unsigned arithmetic, which torch.compile has none of
        self.pool = self._uniform(method.size or 1, bound=self._bound)

    @property
    def _coded(self) -> bool:
        return cast(RobeMethod, self.method).pool_dtype != "float32"

    def _round_trip(self, values: F32) -> F32:
        stored = cast(RobeMethod, self.method).encode_pool(values)
        return stored["pool"] * stored["step"]

    def rows(self, ids: Tensor) -> Tensor:
        method = cast(RobeMethod, self.method)
        settings = (self.embedding_dim, method.chunk or 1, method.wrap, method.sign, self._factors)
        return _ops.robe(ids, [self._read(self.pool)], [], self.num_embeddings, *settings)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return cast(RobeMethod, self.method).encode_pool(array(self.pool))
