"""The hashing trick: see `embstore.methods.hash`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy.typing as npt
from torch import Tensor, nn

from ..methods.hash import Hash as HashMethod
from ._coded import CodedTables
from ._hashing import reduce, scramble
from .base import array


class Hash(CodedTables):
    """Colliding ids share a row and its gradient."""

    id: ClassVar[str] = "hash"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(HashMethod, self.method)
        self.table = self._uniform(method.rows or 1, self.embedding_dim, bound=self._bound)

    def rows(self, ids: Tensor) -> Tensor:
        method = cast(HashMethod, self.method)
        size = method.rows or 1
        at = ids % size if method.hash == "mod" else reduce(scramble(ids, method.seed), size)
        return nn.functional.embedding(at, self._read(self.table))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(HashMethod, self.method)
        return {"table": method.encode_table(array(self.table))}
