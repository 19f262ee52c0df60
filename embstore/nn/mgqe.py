"""Multi-granular quantized embeddings (MGQE, Kang et al., WWW 2020 companion): see `embstore.methods.mgqe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ConfigError
from ..method import nbytes
from ..methods import _groups
from ..methods._bits import pack
from ..methods.mgqe import MGQE
from ._product import ProductCodes
from .base import array


class Mgqe(ProductCodes):
    """Product codes of which hot ids choose from whole codebooks and the others from the first centroids only.

    The ids of highest `counts` are hot, the smaller id first where counts are equal. Options and differences from the
    paper are those of `ProductCodes`.
    """

    id: ClassVar[str] = "mgqe"
    needs_counts: ClassVar[bool] = True
    preset: ClassVar[Mapping[str, Any]] = {"by": "counts"}

    group: Tensor

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        if counts is None:
            raise ConfigError("method 'mgqe' needs counts, how often each id occurs; pass counts=")
        method = cast(MGQE, self.method)
        group = np.ones(self.num_embeddings, np.uint8)
        group[np.argsort(-counts.astype(np.float64), kind="stable")[: method.hot_rows(self.num_embeddings)]] = 0
        self.register_buffer("group", torch.from_numpy(group))
        self._build_codes(1 << method.bits)

    def parts(self) -> list[tuple[int, int]]:
        count, width = cast(MGQE, self.method).parts(self.embedding_dim)
        return [(p * width, min((p + 1) * width, self.embedding_dim)) for p in range(count)]

    def centroids(self, ids: Tensor) -> list[tuple[Tensor, int]]:
        method = cast(MGQE, self.method)
        group = self.group[ids]
        return [((group == g).nonzero()[:, 0], 1 << bits) for g, bits in enumerate((method.bits, method.cold_bits))]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(MGQE, self.method)
        count, width = method.parts(self.embedding_dim)
        books = np.pad(array(self.codebooks.float()), ((0, 0), (0, count * width - self.embedding_dim)))
        codes, group = self._all_codes(), array(self.group)
        return {
            **_groups.build(group, 2),
            "codebooks": np.ascontiguousarray(books.reshape(-1, count, width).transpose(1, 0, 2)),
            "hot_codes": pack(codes[group == 0], method.bits),
            "cold_codes": pack(codes[group == 1], method.cold_bits),
        }

    def nbytes_inference(self) -> int:
        in_order = _groups.consecutive(array(self.group))
        return nbytes(self.method, self.shape, **_groups.free_sizes(self.shape, 2, in_order))
