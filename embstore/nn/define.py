"""DeFINE (Mehta et al., ICLR 2020, arXiv 1911.12385): short rows through a hierarchical group transform."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..arrays import TableShape
from ..errors import ConfigError
from ..method import FloatRows, Method
from .base import Asked, CompressedEmbedding, array

if TYPE_CHECKING:
    from ..table import Table

_BLOCK = 16384
# The mean square of GELU of N(0, 1): what hidden values start as.
GELU_MEAN_SQUARE = 0.425


class Define(CompressedEmbedding):
    """A short row of each id, expanded by group linear layers with GELU, and reduced to a row by a linear one.

    Layer l has max(groups / 2^(l - 1), 1) groups, each with weights of its own; from the second layer on a group gets
    its part of the short row beside its part of what the layer before made. Widths grow linearly.

    It saves memory in training. Rows are cached at export: the table holds what the layers gave for every id, by any
    method that `compress` knows, and lookups run no layer. Export has all rows in memory at once.

    Options
    -------
    short : values of a short row, a multiple of `groups`; None for a quarter of a row, rounded up to one.
    expanded : values of the last layer before the reduction; None for 4 * short.
    layers : of the expansion.
    groups : of the first layer, a power of two.
    stored : the method or pipeline of the exported table, as `embstore.compress` takes it, further config fields being
        its own; "float32" holds exactly what was trained. A budget is that of this method.
    """

    id: ClassVar[str] = "define"
    options: ClassVar[Mapping[str, Any]] = {
        "short": None,
        "expanded": None,
        "layers": 3,
        "groups": 4,
        "stored": "float32",
    }

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        from ..compression import choose

        return choose(asked.option["stored"], asked.shape, asked.limit, asked.config)

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self._counts = counts
        layers, groups = self.option["layers"], self.option["groups"]
        for name, value, most in (("layers", layers, 16), ("groups", groups, 256)):
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(f"{name} of define must be from 1 to {most}, found {value!r}; leave it out")
        if groups & (groups - 1):
            raise ConfigError(f"groups of define must be a power of two, found {groups}; 4 is usual")
        short = self.option["short"] or -(-self.embedding_dim // (4 * groups)) * groups
        expanded = self.option["expanded"] or 4 * short
        if type(short) is not int or short < 1 or short % groups:
            raise ConfigError(f"short of define must be a multiple of its {groups} groups, found {short!r}; mend one")
        if type(expanded) is not int or expanded < 1:
            raise ConfigError(f"expanded of define must be a positive number of values, found {expanded!r}; mend it")
        self.group_counts = [max(groups >> i, 1) for i in range(layers)]
        widths = [short, *(short + (expanded - short) * (i + 1) // layers for i in range(layers))]
        # A layer's output is cut for its own groups, and for the fewer ones of the next layer.
        widths[1:] = [-(-width // g) * g for width, g in zip(widths[1:], self.group_counts, strict=True)]
        self.short = self._uniform(self.num_embeddings, short, bound=3**0.5)
        weights, biases = [], []
        for i, (before, after) in enumerate(pairwise(widths)):
            g = self.group_counts[i]
            inputs = (before if i == 0 else before + short) // g
            energy = inputs if i == 0 else (before * GELU_MEAN_SQUARE + short) / g
            weights.append(self._uniform(g, inputs, after // g, bound=(3 / energy) ** 0.5))
            biases.append(nn.Parameter(torch.zeros(after)))
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        bound = self._bound / (widths[-1] * GELU_MEAN_SQUARE) ** 0.5
        self.reduction = self._uniform(widths[-1], self.embedding_dim, bound=bound)

    def rows(self, ids: Tensor) -> Tensor:
        short = nn.functional.embedding(ids, self.short)
        hidden = short
        for i, g in enumerate(self.group_counts):
            parts = hidden.reshape(len(ids), g, -1)
            if i > 0:
                parts = torch.cat([parts, short.reshape(len(ids), g, -1)], dim=2)
            product = torch.einsum("ngi,gio->ngo", parts, self.weights[i]).reshape(len(ids), -1)
            hidden = nn.functional.gelu(product + self.biases[i])
        return hidden @ self.reduction

    def all_rows(self) -> FloatRows:
        """Every row, float32 (num_embeddings, embedding_dim)."""
        out = np.empty((self.num_embeddings, self.embedding_dim), np.float32)
        device = self.short.device
        with torch.no_grad():
            for first in range(0, len(out), _BLOCK):
                last = min(first + _BLOCK, len(out))
                out[first:last] = array(self.rows(torch.arange(first, last, device=device)).float())
        return out

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        rows = self.all_rows()
        shared = self.method.fit(_Rows(rows, self._counts), np.random.default_rng(0))
        encoded = self.method.encode(shared, np.arange(len(rows)), rows)
        return {**{name: each for name, each in shared.items() if not name.startswith("_")}, **encoded}

    def export(self, path: str | os.PathLike[str], *, keys: Any = None, overwrite: bool = False) -> Table:
        """Compress the rows of every id by `stored`, as `embstore.compress` does, and open the table."""
        from ..compression import compress

        return compress(self.all_rows(), path, self.method, keys=keys, counts=self._counts, overwrite=overwrite)


class _Rows:
    """Rows in memory, as `fit` takes them."""

    def __init__(self, rows: FloatRows, counts: npt.NDArray[Any] | None) -> None:
        self._rows = rows
        self.counts = None if counts is None else counts.astype(np.float64)
        self.shape = TableShape(*rows.shape)

    def blocks(self) -> Iterator[FloatRows]:
        for first in range(0, len(self._rows), _BLOCK):
            yield self._rows[first : first + _BLOCK]

    def sample(self, max_rows: int, rng: np.random.Generator) -> FloatRows:
        if len(self._rows) <= max_rows:
            return self._rows
        return self._rows[np.sort(rng.choice(len(self._rows), max_rows, replace=False, shuffle=False))]
