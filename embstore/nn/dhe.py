"""Deep hash embeddings: see `embstore.methods.dhe`."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..methods.dhe import Dhe as DheMethod
from ._hashing import _shifted
from .base import CompressedEmbedding, array

# The mean square of Mish over N(0, 1): what hidden values are after batch normalization.
MISH_MEAN_SQUARE = 0.452


class Dhe(CompressedEmbedding):
    """Linear layers with batch normalization and Mish between them; normalization is folded into them at export.

    Rows depend on the batch in training mode, so a batch needs two ids at least there; tables hold what evaluation mode
    gives. Every step touches all weights.
    """

    id: ClassVar[str] = "dhe"

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(DheMethod, self.method)
        a, b = (torch.from_numpy(each.view(np.int64)) for each in method.factors())
        # Known from the seed: no part of state_dict.
        self.register_buffer("slopes", a, persistent=False)
        self.register_buffer("offsets", b, persistent=False)
        linear, norms = [], []
        sizes = method.sizes(self.embedding_dim)
        for i, (inputs, outputs) in enumerate(sizes):
            hidden = i < len(sizes) - 1
            bound = inputs**-0.5 if hidden else self._bound / math.sqrt(inputs * MISH_MEAN_SQUARE)
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
            layer.weight = self._uniform(outputs, inputs, bound=bound)
            layer.bias = nn.Parameter(torch.zeros(outputs))
            linear.append(layer)
            if hidden:
                norms.append(nn.BatchNorm1d(outputs))
        self.linear, self.norms = nn.ModuleList(linear), nn.ModuleList(norms)

    def encodings(self, ids: Tensor) -> Tensor:
        """The inputs of the MLP, (n, hashes), of the dtype of the weights."""
        dtype = cast(nn.Linear, self.linear[0]).weight.dtype
        hashed = _shifted(ids[:, None] * cast(Tensor, self.slopes) + cast(Tensor, self.offsets), 40)
        if cast(DheMethod, self.method).encoding == "uniform":
            return (2 * hashed + 1 - 2**24).to(dtype) / 2**24
        u = (2 * hashed + 1).double() / 2**25  # 25 bits: float32 would round some to 1, whose logarithm is 0
        radius, angle = torch.sqrt(-2 * torch.log(u[:, ::2])), 2 * math.pi * u[:, 1::2]
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=2).flatten(1).to(dtype)

    def rows(self, ids: Tensor) -> Tensor:
        x = self.encodings(ids)
        for layer, norm in zip(self.linear, self.norms, strict=False):
            x = nn.functional.mish(norm(layer(x)))
        return cast(Tensor, self.linear[-1](x))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        found = {}
        for i, layer in enumerate(self.linear):
            weight, bias = layer.weight.double(), layer.bias.double()
            if i < len(self.norms):
                norm = cast(nn.BatchNorm1d, self.norms[i])
                mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
                scale = norm.weight.double() / torch.sqrt(variance + norm.eps)
                weight, bias = weight * scale[:, None], (bias - mean) * scale + norm.bias.double()
            found[f"weight{i}"], found[f"bias{i}"] = array(weight.T.float()), array(bias.float())
        return found
