"""Hashed rows with a weight for each id: see `embstore.methods.memcom`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..methods.memcom import Memcom as MemcomMethod
from ._signs import SignedEmbedding
from .base import array


class Memcom(SignedEmbedding):
    """Weights start at 1 and biases at 0, so that training begins as with the hashing trick."""

    id: ClassVar[str] = "memcom"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(MemcomMethod, self.method)
        self.table = self._uniform(method.rows or 1, self.embedding_dim, bound=self._bound)
        self._build_signs()
        self.weight = nn.Parameter(torch.ones(self.num_embeddings, 1))
        self.bias = nn.Parameter(torch.zeros(self.num_embeddings, 1)) if method.bias else None

    def rows(self, ids: Tensor) -> Tensor:
        shared = nn.functional.embedding(ids % len(self.table), self._read(self.table))
        if self._signed:
            shared = self._with_signs(shared, ids // len(self.table))
        rows = shared * nn.functional.embedding(ids, self.weight)
        return rows if self.bias is None else rows + nn.functional.embedding(ids, self.bias)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(MemcomMethod, self.method)
        found = {"table": method.coding.encode(array(self.table)), "weight": array(self.weight)[:, 0]}
        return found if self.bias is None else {**found, "bias": array(self.bias)[:, 0]}
