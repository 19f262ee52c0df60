"""The uncompressed table, for comparison and for fields too small to compress."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy.typing as npt
from torch import Tensor, nn

from .base import CompressedEmbedding, array


class Full(CompressedEmbedding):
    """`nn.Embedding` under the same face; exports as `float32`."""

    id: ClassVar[str] = "float32"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self.weight = self._uniform(self.num_embeddings, self.embedding_dim, bound=self._bound)

    def rows(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"values": array(self.weight)}
