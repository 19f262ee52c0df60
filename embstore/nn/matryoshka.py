"""Matryoshka representation learning (Kusupati et al., NeurIPS 2022, arXiv 2205.13147)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..errors import ConfigError, ShapeError


def matryoshka_loss(
    loss: Callable[..., Tensor], dims: Sequence[int], weights: Sequence[float] | None = None
) -> Callable[..., Tensor]:
    """A loss that makes the first values of each embedding an embedding too, as "truncate" pipelines serve them.

    It is the weighted sum of `loss` over `dims`, with every positional argument cut to its first m values along the
    last axis. Keyword arguments (targets, temperatures) go to `loss` as they are. What it costs is one evaluation of
    `loss` for each of `dims`; the embeddings themselves are made once.

    >>> objective = matryoshka_loss(torch.nn.functional.mse_loss, [8, 16, 64])
    >>> objective(rows, targets).backward()

    Parameters
    ----------
    loss : of embeddings (..., m) for any m of `dims`. For cosine, it normalizes what it is given.
    dims : lengths to train, ascending; the last is usually the whole length, or values beyond it get no gradient.
    weights : one for each of `dims`; 1 by default, as in the paper.

    Raises `ConfigError`; when called, `ShapeError` for an embedding shorter than the last of `dims`.
    """
    lengths = tuple(dims)
    if not lengths or any(type(m) is not int or m < 1 for m in lengths) or sorted(set(lengths)) != list(lengths):
        raise ConfigError(f"dims must be ascending positive integers, found {dims!r}; [8, 16, 32, 64] for 64 values")
    factors = tuple(weights) if weights is not None else (1.0,) * len(lengths)
    if len(factors) != len(lengths) or not all(math.isfinite(w) and w >= 0 for w in factors) or not any(factors):
        raise ConfigError(
            f"weights must be {len(lengths)} finite numbers, none negative and not all 0, found {weights!r}; "
            "leave them out for 1 each"
        )

    def total(*embeddings: Tensor, **others: Any) -> Tensor:
        if not embeddings or any(each.shape[-1] < lengths[-1] for each in embeddings):
            found = [tuple(each.shape) for each in embeddings]
            raise ShapeError(f"embeddings must have at least {lengths[-1]} values, found {found}; pass smaller dims")
        terms = [
            w * loss(*(each[..., :m] for each in embeddings), **others) for m, w in zip(lengths, factors, strict=True)
        ]
        return sum(terms[1:], terms[0])

    return total
