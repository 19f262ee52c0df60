"""Deep hash embeddings: see `embstore.methods.dhe`."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..methods.dhe import Dhe as DheMethod
from ._hashing import _shifted
from .base import CompressedEmbedding, array, once

# The mean square of Mish over N(0, 1): what hidden values are after batch normalization.
MISH_MEAN_SQUARE = 0.452


class Dhe(CompressedEmbedding):
    """Linear layers with batch normalization and Mish between them; normalization is folded into them at export.

    Rows depend on the batch in training mode, so a batch needs two ids at least there; tables hold what evaluation mode
    gives. An id that a batch has many times is computed once, and counts many times in the moments. In training by
    several processes each takes the moments of its own batch. Every step touches all weights.
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
            layer.bias = None if hidden else nn.Parameter(torch.zeros(outputs))  # normalization has one
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
        ids, places, counts = once(ids)
        if self.training and len(places) < 2:
            raise ShapeError("a batch of dhe in training mode needs two ids or more, found 1; add some, or call eval()")
        x = self.encodings(ids)
        for layer, norm in zip(self.linear, self.norms, strict=False):
            x = nn.functional.mish(_normalized(x, cast(nn.Linear, layer), cast(nn.BatchNorm1d, norm), counts))
        return nn.functional.embedding(places, self.linear[-1](x))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        found = {}
        for i, layer in enumerate(self.linear):
            weight = layer.weight.double()
            if i < len(self.norms):
                norm = cast(nn.BatchNorm1d, self.norms[i])
                mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
                scale = norm.weight.double() / torch.sqrt(variance + norm.eps)
                weight, bias = weight * scale[:, None], norm.bias.double() - mean * scale
            else:
                bias = layer.bias.double()
            found[f"weight{i}"], found[f"bias{i}"] = array(weight.T.float()), array(bias.float())
        return found


def _normalized(x: Tensor, layer: nn.Linear, norm: nn.BatchNorm1d, counts: Tensor) -> Tensor:
    """`layer` and batch normalization of x (n, inputs), row i of which stands for counts[i] samples.

    The moments of what the layer gives follow from those of x, and normalization is a scale and a shift of its weights:
    no pass over the outputs, which are far wider than x where there is one hidden layer.
    """
    weight = layer.weight
    if not norm.training:
        scale = norm.weight * torch.rsqrt(cast(Tensor, norm.running_var) + norm.eps)
        return nn.functional.linear(x, weight * scale[:, None], norm.bias - cast(Tensor, norm.running_mean) * scale)
    with torch.autocast(x.device.type, enabled=False):
        x, samples = x.to(weight.dtype), counts.sum()
        share = (counts.double() / samples).to(weight.dtype)
        mean = share @ x
        x = x - mean
        if len(x) < layer.in_features:
            variance = share @ (x @ weight.T) ** 2
        else:
            variance = ((weight @ (x.T @ (x * share[:, None]))) * weight).sum(1)
        with torch.no_grad():
            momentum = cast(float, norm.momentum)
            cast(Tensor, norm.running_mean).lerp_(weight @ mean, momentum)
            cast(Tensor, norm.running_var).lerp_(variance * samples / (samples - 1), momentum)
            cast(Tensor, norm.num_batches_tracked).add_(1)
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return nn.functional.linear(x, weight * scale[:, None], norm.bias)
