"""Compositional embeddings: see `embstore.methods.compo`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..methods.compo import Compo as CompoMethod
from ._coded import CodedTables
from .base import array


class Compo(CodedTables):
    """Rows composed of one row of each small table.

    Every row starts with the variance of a full table's: of products one factor starts as a full table and the others
    around 1, with a mean square of 1, so that neither a value nor its gradient starts as the product of small numbers.
    """

    id: ClassVar[str] = "compo"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(CompoMethod, self.method)
        sizes = method.tables(self.shape)
        tables = []
        for i, size in enumerate(sizes):
            if method.op == "multiply" and i < len(sizes) - 1:
                center = (1 + 1 / 12) ** -0.5
                table = self._uniform(*size, bound=center / 2)
                table.data += center
            else:
                shares = len(sizes) if method.op == "add" else 1
                table = self._uniform(*size, bound=self._bound / shares**0.5)
            tables.append(table)
        self.tables = nn.ParameterList(tables)

    def rows(self, ids: Tensor) -> Tensor:
        method = cast(CompoMethod, self.method)
        collisions, last = method.collisions or 1, len(self.tables) - 1
        parts = []
        for i, table in enumerate(self.tables):
            parts.append(nn.functional.embedding(ids if i == last else ids % collisions, self._read(table)))
            if i < last:
                ids = ids // collisions
        if method.op == "concat":
            return torch.cat(parts, dim=1)
        value = parts[0]
        for part in parts[1:]:
            value = value * part if method.op == "multiply" else value + part
        return value

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(CompoMethod, self.method)
        return {f"table{i}": method.encode_table(array(table)) for i, table in enumerate(self.tables)}
