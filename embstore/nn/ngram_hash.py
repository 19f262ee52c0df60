"""Rows computed from the characters of keys: see `embstore.methods.ngram_hash`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..method import Method
from ..methods._hashing import FIRST, GOLDEN, SECOND
from ..methods.ngram_hash import NgramHash as NgramHashMethod
from ._hashing import _shifted, _signed
from .base import Asked, CompressedEmbedding, array

if TYPE_CHECKING:
    from ..table import Table


class NgramHash(CompressedEmbedding):
    """A trained matrix of features of the n-grams of keys; the hashes of every key's n-grams are kept for training.

    Rows of other strings, which are served as well, are given by `rows_of`. Every step touches all weights.

    Options
    -------
    keys : strings, one a row; by default the ids in decimal. They are the keys of the exported table.
    """

    id: ClassVar[str] = "ngram_hash"
    options: ClassVar[Mapping[str, Any]] = {"keys": None}

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        keys = _keys(asked.option["keys"], asked.shape.num_embeddings)
        method = asked.stored.from_config(asked.config)
        if asked.limit is not None:  # solved for keys of a typical length; these have their own
            more = sum(method.free_sizes(asked.shape).values()) - sum(len(_utf8(key)) for key in keys)
            asked = dataclasses.replace(asked, limit=asked.limit + more)
        return super().solve(asked)

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(NgramHashMethod, self.method)
        self._keys = _keys(self.option["keys"], self.num_embeddings)
        hashes, bounds = self._hashes(self._keys)
        self.register_buffer("hashes", hashes, persistent=False)
        self.register_buffer("bounds", bounds, persistent=False)
        if method.projection:
            features = method.features or 1
            self.weight0 = self._uniform(features, self.embedding_dim, bound=self._bound / features**0.5)
            self.bias0 = nn.Parameter(torch.zeros(self.embedding_dim))

    def _hashes(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Hashes of the n-grams of keys, one key after the other, and where those of each begin and the last end."""
        each = [cast(NgramHashMethod, self.method).gram_hashes(_utf8(key)) for key in keys]
        bounds = torch.tensor([0, *map(len, each)]).cumsum(0)
        flat = np.array([h for own in each for h in own], np.uint64)
        return torch.from_numpy(flat.view(np.int64)), bounds

    def encodings(self, hashes: Tensor, bounds: Tensor, ids: Tensor) -> Tensor:
        """The features (n, features) of rows, float32; sums of integers up to the last step."""
        features = cast(NgramHashMethod, self.method).features or 1
        first, counts = bounds[ids], bounds[ids + 1] - bounds[ids]
        owner = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), counts)
        ends = counts.cumsum(0)
        at = torch.arange(len(owner), device=ids.device) + (first - (ends - counts))[owner]
        steps = torch.arange(1, features + 1, device=ids.device) * _signed(GOLDEN)
        z = hashes[at][:, None] + steps
        z = (z ^ _shifted(z, 30)) * _signed(FIRST)
        z = (z ^ _shifted(z, 27)) * _signed(SECOND)
        values = _shifted(z ^ _shifted(z, 31), 40) - 2**23
        sums = torch.zeros((len(ids), features), dtype=torch.int64, device=ids.device).index_add_(0, owner, values)
        return (sums * (torch.sqrt(3.0 / counts.double()) / 2**23)[:, None]).float()

    def _project(self, x: Tensor) -> Tensor:
        if not cast(NgramHashMethod, self.method).projection:
            return x
        return nn.functional.linear(x.to(self.weight0.dtype), self.weight0.T, self.bias0)

    def rows(self, ids: Tensor) -> Tensor:
        return self._project(self.encodings(cast(Tensor, self.hashes), cast(Tensor, self.bounds), ids))

    def rows_of(self, keys: Sequence[str]) -> Tensor:
        """Rows (n, embedding_dim) of any strings, differentiable."""
        hashes, bounds = (each.to(cast(Tensor, self.hashes).device) for each in self._hashes(keys))
        return self._project(self.encodings(hashes, bounds, torch.arange(len(keys), device=hashes.device)))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        trained = {name: array(each.float()) for name, each in self.named_parameters()}
        return {**trained, **cast(NgramHashMethod, self.method).keyed(self._keys)}

    def export(self, path: str | os.PathLike[str], *, keys: Any = None, overwrite: bool = False) -> Table:
        """As in the base, with the module's own keys where they were given and no others are."""
        own = self.option["keys"] or None
        return super().export(path, keys=own if keys is None else keys, overwrite=overwrite)


def _keys(given: Any, rows: int) -> list[str]:
    if given is None:
        return [str(i) for i in range(rows)]
    keys = list(given)
    if len(keys) != rows or not all(isinstance(key, str) for key in keys):
        raise ConfigError(f"keys of ngram_hash must be {rows:,} strings, one a row, found {len(keys):,}; pass these")
    return keys


def _utf8(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
