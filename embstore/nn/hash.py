"""The hashing trick: see `embstore.methods.hash`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy.typing as npt
from torch import Tensor, nn

from ..methods.hash import Hash as HashMethod
from ._hashing import LOWEST, reduce, scramble
from ._signs import SignedEmbedding
from .base import array


class Hash(SignedEmbedding):
    """Colliding ids share a row and its gradient, under signs that tell them apart."""

    id: ClassVar[str] = "hash"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(HashMethod, self.method)
        self.table = self._uniform(method.rows or 1, self.embedding_dim, bound=self._bound)
        self._build_signs()

    def rows(self, ids: Tensor) -> Tensor:
        method = cast(HashMethod, self.method)
        size = method.rows or 1
        if method.hash == "mod":
            at, patterns = ids % size, ids // size
        else:
            hashed = scramble(ids, method.seed)
            at, patterns = reduce(hashed, size), hashed & LOWEST
        rows = nn.functional.embedding(at, self._read(self.table))
        return self._with_signs(rows, patterns) if self._signed else rows

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(HashMethod, self.method)
        return {"table": method.coding.encode(array(self.table))}
