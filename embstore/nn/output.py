"""The rows of a compressed embedding as the weights of an output layer, which ties both ends of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError, ShapeError
from .base import CompressedEmbedding, check_ids


class OutputProjection(nn.Module):
    """Products of hidden states with every row of an embedding, whose weights it shares (Press & Wolf, EACL 2017).

    Rows are made a block at a time, and again in the backward pass: the table is never there as a whole, at the price
    of making each row twice a step. Made by `CompressedEmbedding.as_output_projection`.

    Parameters
    ----------
    embedding : whose rows are the weights.
    block : rows made at a time; a block takes block * (embedding_dim + states) floats.
    """

    def __init__(self, embedding: CompressedEmbedding, block: int) -> None:
        super().__init__()
        if type(block) is not int or block < 1:
            raise ConfigError(f"block must be a positive number of rows, found {block!r}; leave it out for 16,384")
        self.embedding, self.block = embedding, block

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., num_embeddings) of hidden states (..., embedding_dim). Raises `ShapeError`."""
        flat = self._flat(hidden)
        logits = self._over_blocks(flat, lambda states, ids: self.embedding.logits(states, ids))
        found = torch.cat(logits, dim=1) if logits else flat.new_empty(len(flat), 0)
        return found.reshape(*hidden.shape[:-1], self.embedding.num_embeddings)

    def cross_entropy(self, hidden: Tensor, target: Tensor) -> Tensor:
        """The mean cross entropy of `forward(hidden)` and ids `target` (...), whose logits are not there as a whole.

        Raises `ShapeError`, and `IdRangeError` for a target that is no row.
        """
        flat = self._flat(hidden)
        if target.shape != hidden.shape[:-1]:
            raise ShapeError(
                f"target must have shape {tuple(hidden.shape[:-1])}, found {tuple(target.shape)}; one id each"
            )
        ids = target.reshape(-1)
        check_ids(ids, self.embedding.num_embeddings)
        parts = self._over_blocks(flat, lambda states, ids: self.embedding.logits(states, ids).logsumexp(dim=1))
        with _frozen_statistics(self.embedding):
            own = (flat * self.embedding.rows(ids.long())).sum(dim=1)
        return (torch.stack(parts, dim=1).logsumexp(dim=1) - own).mean()

    def _flat(self, hidden: Tensor) -> Tensor:
        if hidden.dim() < 1 or hidden.shape[-1] != self.embedding.embedding_dim:
            raise ShapeError(
                f"hidden states must have shape (..., {self.embedding.embedding_dim}), found {tuple(hidden.shape)}; "
                "project them to the rows' dimension first"
            )
        return hidden.reshape(-1, hidden.shape[-1])

    def _over_blocks(self, hidden: Tensor, make: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """`make(hidden, ids)` for each block of ids; of what it computes only the result is kept for gradients."""

        def part(states: Tensor, first: int, last: int) -> Tensor:
            with _frozen_statistics(self.embedding):
                return make(states, torch.arange(first, last, device=states.device))

        rows, found = self.embedding.num_embeddings, []
        for first in range(0, rows, self.block):
            last = min(first + self.block, rows)
            if torch.is_grad_enabled():
                found.append(checkpoint(part, hidden, first, last, use_reentrant=False))
            else:
                found.append(part(hidden, first, last))
        return found

    def extra_repr(self) -> str:
        return f"block={self.block}"


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalization by its running statistics: a block of ids is no batch, and making it twice counts twice."""
    training = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    for norm in training:
        norm.eval()
    try:
        yield
    finally:
        for norm in training:
            norm.train()
