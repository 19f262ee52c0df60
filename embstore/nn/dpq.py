"""Differentiable product quantization (DPQ, Chen, Li and Sun, ICML 2020); stored as `pq`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..methods._bits import pack
from ..methods.pq import PQ, round_codebooks
from ._product import ProductCodes
from .base import array


class Dpq(ProductCodes):
    """Product codes learned with the model; options and differences from the paper are those of `ProductCodes`.

    Centroids in float16 train in float32 and are rounded in every forward pass.
    """

    id: ClassVar[str] = "dpq"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self._build_codes(1 << cast(PQ, self.method).bits)

    def parts(self) -> list[tuple[int, int]]:
        return cast(PQ, self.method).slices(self.embedding_dim)

    def _values(self) -> Tensor:
        if cast(PQ, self.method).codebook_dtype == "float32":
            return self.codebooks
        limit = float(np.finfo(np.float16).max)
        rounded = self.codebooks.detach().clamp(-limit, limit).to(torch.float16).to(self.codebooks.dtype)
        return rounded + (self.codebooks - self.codebooks.detach())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        method = cast(PQ, self.method)
        return {
            "codes": pack(self._all_codes(), method.bits),
            "codebooks": round_codebooks(array(self.codebooks.float()), method.codebook_dtype),
        }
