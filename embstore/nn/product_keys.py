"""Product-key memory (Lample et al., NeurIPS 2019, arXiv 1907.05242): a large table addressed by content."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from .base import CompressedEmbedding


class ProductKeyMemory(nn.Module):
    """A layer that adds up the k rows of `values` whose keys fit its input best, for each head.

    The key of row i * n + j, of n * n, is the concatenation of sub-keys i and j of two codebooks of n: a product with a
    query is a sum of one of each codebook, and the k best of all rows are among the sums of the k best of either. So
    the search is exact, at the price of 2 n products and k * k sums in place of n * n products.

    Parameters
    ----------
    input_dim : values of an input.
    values : the table, any module of `embstore.nn` with `mode="sum"` and a square number of rows. Heads share it.
    heads : queries of an input, each with codebooks of its own.
    k : rows a head takes, weighted by the softmax of their products.
    key_dim : values of a query and of a key, even; by default those of a row of `values`, made even.
    batch_norm : normalize queries over the batch, so that more rows are used.
    seed : of the initial keys and queries.
    """

    def __init__(
        self,
        input_dim: int,
        values: CompressedEmbedding,
        *,
        heads: int = 4,
        k: int = 32,
        key_dim: int | None = None,
        batch_norm: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(values, CompressedEmbedding) or values.mode != "sum":
            raise ConfigError('values must be an embstore.nn embedding with mode="sum", found another; make it so')
        self.size = math.isqrt(values.num_embeddings)
        if self.size**2 != values.num_embeddings or self.size == 0:
            raise ConfigError(
                f"values must have a square number of rows, found {values.num_embeddings:,}; "
                f"take {max(self.size, 1) ** 2:,}"
            )
        key_dim = -(-values.embedding_dim // 2) * 2 if key_dim is None else key_dim
        for name, value, most in (("heads", heads, None), ("k", k, values.num_embeddings), ("key_dim", key_dim, None)):
            if type(value) is not int or value < 1 or (most is not None and value > most):
                bound = "positive" if most is None else f"from 1 to the {most:,} rows"
                raise ConfigError(f"{name} must be {bound}, found {value!r}; leave it out for the default")
        if key_dim % 2:
            raise ConfigError(f"key_dim must be even, half for each codebook, found {key_dim}; add one")
        self.input_dim, self.heads, self.k, self.key_dim = input_dim, heads, k, key_dim
        self.values = values
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        self.keys = uniform(heads, 2, self.size, key_dim // 2, bound=key_dim**-0.5)
        self.query = nn.utils.skip_init(nn.Linear, input_dim, heads * key_dim)
        self.query.weight = uniform(heads * key_dim, input_dim, bound=input_dim**-0.5)
        self.query.bias = nn.Parameter(torch.zeros(heads * key_dim))
        self.norm = nn.BatchNorm1d(heads * key_dim) if batch_norm else nn.Identity()

    def search(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The k best rows of queries (n, heads, key_dim): products and ids, both (n, heads, k), best first."""
        halves = queries.reshape(len(queries), self.heads, 2, self.key_dim // 2)
        products = torch.einsum("nhsd,hskd->nhsk", halves, self.keys)
        best, places = products.topk(min(self.k, self.size), dim=3)
        sums = (best[:, :, 0, :, None] + best[:, :, 1, None, :]).flatten(2)
        ids = (places[:, :, 0, :, None] * self.size + places[:, :, 1, None, :]).flatten(2)
        scores, at = sums.topk(self.k, dim=2)
        return scores, ids.gather(2, at)

    def address(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and ids of the rows that inputs (n, input_dim) take, both (n, heads, k): to see which rows are used.

        Raises `ShapeError`.
        """
        if input.dim() != 2 or input.shape[1] != self.input_dim:
            raise ShapeError(f"input must have shape (n, {self.input_dim}), found {tuple(input.shape)}; reshape it")
        queries = self.norm(self.query(input))
        scores, ids = self.search(queries.reshape(len(input), self.heads, self.key_dim))
        return scores.softmax(dim=2), ids

    def forward(self, input: Tensor) -> Tensor:
        """Rows (..., embedding_dim) for inputs (..., input_dim). Raises `ShapeError`."""
        if input.dim() < 1:
            raise ShapeError(f"input must have shape (..., {self.input_dim}), found a number; add an axis")
        weights, ids = self.address(input.reshape(-1, input.shape[-1]))
        found: Tensor = self.values(ids.flatten(1), per_sample_weights=weights.flatten(1))
        return found.reshape(*input.shape[:-1], self.values.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.input_dim}, heads={self.heads}, k={self.k}, key_dim={self.key_dim}, sub-keys={self.size}"
