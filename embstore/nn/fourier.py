"""Fourier features of the id through a small MLP: see `embstore.methods.fourier`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..methods.fourier import SINE
from ..methods.fourier import Fourier as FourierMethod
from .base import CompressedEmbedding, array, once

# The mean square of a * gelu(b), a and b of N(0, 1): what hidden values start as.
GATED_MEAN_SQUARE = 0.425


class Fourier(CompressedEmbedding):
    """Features of the id, known from the shape alone, through a layer gated by GELU and a linear one.

    An id that a batch has many times is computed once. Every step touches all weights.
    """

    id: ClassVar[str] = "fourier"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(FourierMethod, self.method)
        features, width, dim = method.features or 2, method.width or 1, self.embedding_dim
        steps = torch.from_numpy(method.steps(self.shape).view(np.int64))
        self.register_buffer("steps", steps, persistent=False)  # known from the shape: no part of state_dict
        self.weight0 = self._uniform(features, 2 * width, bound=(6 / features) ** 0.5)
        self.bias0 = nn.Parameter(torch.zeros(2 * width))
        self.weight1 = self._uniform(width, dim, bound=self._bound / (width * GATED_MEAN_SQUARE) ** 0.5)
        self.bias1 = nn.Parameter(torch.zeros(dim))

    def features(self, ids: Tensor) -> Tensor:
        """Sines, then cosines, (n, features), float32."""
        turns = ((2 * ids + 1)[:, None] * cast(Tensor, self.steps)) >> 32  # signed, of 2^-32 turns
        quarter = ((turns + 2**30 + 2**31) & (2**32 - 1)) - 2**31
        return torch.cat([_sine(turns), _sine(quarter)], dim=1)

    def rows(self, ids: Tensor) -> Tensor:
        ids, places, _ = once(ids)
        x = self.features(ids).to(self.weight0.dtype)
        value, gate = nn.functional.linear(x, self.weight0.T, self.bias0).chunk(2, dim=1)
        hidden = value * nn.functional.gelu(gate, approximate="tanh")
        rows = nn.functional.linear(hidden, self.weight1.T, self.bias1)
        if cast(FourierMethod, self.method).residual:
            extra = self.embedding_dim - x.shape[1]
            rows = rows + nn.functional.pad(x, (0, extra))  # a negative `extra` drops features
        return nn.functional.embedding(places, rows)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        found = {name: array(cast(Tensor, each).float()) for name, each in self.named_parameters()}
        return {"steps": cast(FourierMethod, self.method).steps(self.shape), **found}


def _sine(turns: Tensor) -> Tensor:
    """The sine of `turns` / 2^32 turns, of the bits that stored tables give."""
    outer = torch.where(turns < 0, -(2**31), 2**31) - turns
    z = torch.where(turns.abs() > 2**30, outer, turns).double() / 2**30
    s, p = z * z, torch.full_like(z, SINE[0])
    for c in SINE[1:]:
        p = p * s + c
    return (p * z).float()
