"""Compositional embeddings: see `embstore.methods.compo`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..methods._signs import signs
from ..methods.compo import Compo as CompoMethod
from . import _ops
from ._coded import CodedTables
from ._rows import digits
from .base import array


class Compo(CodedTables):
    """Rows composed of one row of each small table.

    Every row starts with the variance of a full table's. Of products the largest table starts as a full one and the
    others as signs: ids that share its row then start with different ones, and learn to use different values of it.
    Near 1 they start as the same row, and learn much later (measured on MovieLens-1M at half of the bytes). Two factors
    have the signs of `embstore.methods._signs`; of more the products would often be the same, so they are random.
    """

    id: ClassVar[str] = "compo"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(CompoMethod, self.method)
        sizes = method.tables(self.shape)
        tables = []
        largest = max(range(len(sizes)), key=lambda i: sizes[i])
        for i, size in enumerate(sizes):
            if method.op == "multiply" and i != largest:
                table = self._uniform(*size, bound=1.0)
                patterns = signs(np.arange(size[0]), size[1])
                table.data = torch.from_numpy(patterns) if len(sizes) == 2 else torch.where(table.data < 0, -1.0, 1.0)
            else:
                shares = len(sizes) if method.op == "add" else 1
                table = self._uniform(*size, bound=self._bound / shares**0.5)
            tables.append(table)
        self.tables = nn.ParameterList(tables)

    def rows(self, ids: Tensor) -> Tensor:
        method = cast(CompoMethod, self.method)
        tables = [self._read(table) for table in self.tables]
        return _ops.compo(ids, tables, [], self.num_embeddings, method.collisions or 1, method.op)

    def logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Of sums and concatenations: sums of products with the small tables, each product made once a block."""
        method = cast(CompoMethod, self.method)
        if method.op == "multiply":
            return super().logits(hidden, ids)
        tables = [self._read(table) for table in self.tables]
        widths = [table.shape[1] for table in tables]
        states = hidden.split(widths, dim=1) if sum(widths) == hidden.shape[1] else [hidden] * len(widths)
        found = digits(ids, method.collisions or 1, len(tables))
        terms = [(h @ t.T)[:, d] for h, t, d in zip(states, tables, found, strict=True)]
        return sum(terms[1:], terms[0])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(CompoMethod, self.method)
        return {f"table{i}": method.coding.encode(array(table)) for i, table in enumerate(self.tables)}
