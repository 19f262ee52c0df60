"""Click models over the embeddings of categorical fields, small and plain: (batch, fields, dim) to logits (batch,).

Every parameter of an id is in the embedding: what these models call linear or wide terms read the embeddings too, so
that compressing them compresses all that grows with the ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layer = nn.Linear(a, b)
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DLRM(nn.Module):
    """Naumov et al. 2019: dot products of all pairs of fields, then an MLP.

    There are no dense inputs here, and with two fields one dot product would be all the top sees; it gets the
    embeddings beside the products.
    """

    def __init__(self, fields: int, dim: int, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        pairs = torch.tril_indices(fields, fields, -1)
        self.register_buffer("pairs", pairs, persistent=False)
        self.top = mlp([pairs.shape[1] + fields * dim, *hidden, 1])

    def forward(self, x: Tensor) -> Tensor:
        dots = torch.bmm(x, x.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([dots, x.flatten(1)], dim=1)).squeeze(1)


class WDL(nn.Module):
    """Wide and deep, Cheng et al. 2016."""

    def __init__(self, fields: int, dim: int, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        self.wide = nn.Linear(fields * dim, 1)
        self.deep = mlp([fields * dim, *hidden, 1])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (self.wide(flat) + self.deep(flat)).squeeze(1)


class DCN(nn.Module):
    """Deep and cross network, Wang et al. 2017: x_{k+1} = x_0 (x_k · w_k) + b_k + x_k, three times, beside an MLP."""

    def __init__(self, fields: int, dim: int, hidden: Sequence[int] = (128, 64), crosses: int = 3) -> None:
        super().__init__()
        width = fields * dim
        self.weights = nn.Parameter(torch.randn(crosses, width) * width**-0.5)
        self.biases = nn.Parameter(torch.zeros(crosses, width))
        self.deep = mlp([width, *hidden])
        self.last = nn.Linear(width + hidden[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        start = crossed = x.flatten(1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            crossed = start * (crossed @ weight)[:, None] + bias + crossed
        return self.last(torch.cat([crossed, self.deep(start)], dim=1)).squeeze(1)


class DeepFM(nn.Module):
    """Guo et al. 2017: a factorization machine, (|sum|^2 - sum of |.|^2) / 2 of the embeddings, beside an MLP."""

    def __init__(self, fields: int, dim: int, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        self.linear = nn.Linear(fields * dim, 1)
        self.deep = mlp([fields * dim, *hidden, 1])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        pairs = 0.5 * (x.sum(dim=1).square() - x.square().sum(dim=1)).sum(dim=1)
        return (self.linear(flat) + self.deep(flat)).squeeze(1) + pairs


MODELS = {"dlrm": DLRM, "wdl": WDL, "dcn": DCN, "deepfm": DeepFM}
