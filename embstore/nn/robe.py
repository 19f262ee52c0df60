"""Random offset block embedding: see `embstore.methods.robe`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy.typing as npt
import torch
from torch import Tensor

from ..methods.robe import PRIME
from ..methods.robe import Robe as RobeMethod
from ._coded import F32, CodedEmbedding
from .base import array


class Robe(CodedEmbedding):
    """Rows are runs of one pool; overlapping runs add up their gradients."""

    id: ClassVar[str] = "robe"

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
        chunk, dim = method.chunk or 1, self.embedding_dim
        b, c, d, b_sign, c_sign, d_sign = self._factors
        x = (ids % PRIME)[:, None]
        first = (x * b + (torch.arange(-(-dim // chunk), device=ids.device) * c + d)) % PRIME % method.starts()
        at = (first[:, :, None] + torch.arange(chunk, device=ids.device)).flatten(1)[:, :dim]
        if method.wrap:
            at = at % len(self.pool)
        values = self._read(self.pool).index_select(0, at.reshape(-1)).reshape(-1, dim)
        if not method.sign:
            return values
        odd = (x * b_sign + (torch.arange(dim, device=ids.device) * c_sign + d_sign)) % PRIME & 1
        return values * (2 * odd - 1).to(values.dtype)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return cast(RobeMethod, self.method).encode_pool(array(self.pool))
