"""Rows of trainable methods and the gradients of their weights by torch's own operations: what operators fall back to.

Every kind has a `rows` and a `gradients`; both take ids (n,), int64 and in range, the weights, tensors that are not
trained, and settings. The forward chain, differentiated by autograd, is what `gradients` has the bits of on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..methods.robe import PRIME
from ._hashing import reduce, scramble

Shapes = Sequence[Sequence[int]]


def _gathered(grad: Tensor, at: Tensor, rows: int) -> Tensor:
    """The gradient of a table of `rows` rows of which those at `at` were taken; added in the order of ids."""
    found: Tensor = torch.ops.aten.embedding_dense_backward(grad, at, rows, -1, False)
    return found


# Compositional: a row of each small table, by the digits of the id.


def digits(ids: Tensor, collisions: int, tables: int) -> Iterator[Tensor]:
    """The rows of each small table that make the rows of ids."""
    for _ in range(tables - 1):
        yield ids % collisions
        ids = ids // collisions
    yield ids


def compo_rows(ids: Tensor, tables: Sequence[Tensor], fixed: Sequence[Tensor], collisions: int, op: str) -> Tensor:
    """Products, sums or concatenations (n, dim) of a row of each table."""
    found = digits(ids, collisions, len(tables))
    parts = [nn.functional.embedding(d, table) for d, table in zip(found, tables, strict=True)]
    if op == "concat":
        return torch.cat(parts, dim=1)
    value = parts[0]
    for part in parts[1:]:
        value = value * part if op == "multiply" else value + part
    return value


def compo_gradients(
    grad: Tensor,
    ids: Tensor,
    tables: Sequence[Tensor],
    fixed: Sequence[Tensor],
    shapes: Shapes,
    collisions: int,
    op: str,
) -> list[Tensor]:
    """Of each table; `tables` are read for products only."""
    found = list(digits(ids, collisions, len(shapes)))
    if op == "concat":
        grads = list(grad.split([shape[1] for shape in shapes], dim=1))
    elif op == "add":
        grads = [grad] * len(shapes)
    else:
        parts = [nn.functional.embedding(d, table) for d, table in zip(found, tables, strict=True)]
        before: list[Tensor] = []  # products of what comes before each part but the first
        for part in parts[:-1]:
            before.append(before[-1] * part if before else part)
        grads = []
        for part, left in zip(parts[:0:-1], before[::-1], strict=True):
            grads.insert(0, grad * left)
            grad = grad * part
        grads.insert(0, grad)
    return [_gathered(g.contiguous(), d, shape[0]) for g, d, shape in zip(grads, found, shapes, strict=True)]


# Tensor trains: products of a slice of each core. Products that ids of a batch share are made once.


def tt_rows(ids: Tensor, cores: Sequence[Tensor], fixed: Sequence[Tensor], dim: int) -> Tensor:
    """Products (n, dim) of slices of cores (n_i, r_i, q_i, r_{i+1}), as the digits of ids choose them."""
    return _tt_products(ids, cores)[:, :dim]


def _tt_products(ids: Tensor, cores: Sequence[Tensor]) -> Tensor:
    """Products (n, q_0 … q_last r_last) of all cores, for ids (n,) in the digits of these."""
    *others, core = cores
    if not others:
        return nn.functional.embedding(ids, core.flatten(1))
    _, inverse, left, right = _tt_factors(ids, cores)
    return nn.functional.embedding(inverse, torch.bmm(left, right).flatten(1))


def _tt_factors(ids: Tensor, cores: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids once each, where each id stands among them, the products before the last core, and its slices."""
    *others, core = cores
    unique, inverse = torch.unique(ids, return_inverse=True)
    size, rank, values, after = core.shape
    outer = math.prod(other.shape[2] for other in others)
    left = _tt_products(unique // size, others).reshape(len(unique), outer, rank)
    right = nn.functional.embedding(unique % size, core.flatten(1)).reshape(len(unique), rank, values * after)
    return unique, inverse, left, right


def tt_gradients(
    grad: Tensor, ids: Tensor, cores: Sequence[Tensor], fixed: Sequence[Tensor], shapes: Shapes, dim: int
) -> list[Tensor]:
    """Of each core."""
    width = math.prod(shape[2] for shape in shapes)
    return _tt_gradients(nn.functional.pad(grad, (0, width - dim)), ids, cores)


def _tt_gradients(grad: Tensor, ids: Tensor, cores: Sequence[Tensor]) -> list[Tensor]:
    *others, core = cores
    if not others:
        return [_gathered(grad.contiguous(), ids, len(core)).reshape(core.shape)]
    unique, inverse, left, right = _tt_factors(ids, cores)
    own = _gathered(grad.contiguous(), inverse, len(unique)).reshape(len(unique), left.shape[1], right.shape[2])
    size = len(core)
    slices = torch.bmm(left.mT, own).flatten(1)
    found = _tt_gradients(torch.bmm(own, right.mT).flatten(1), unique // size, others)
    return [*found, _gathered(slices, unique % size, size).reshape(core.shape)]


# ROBE: runs of a pool, at hashed places.


def _robe_places(
    ids: Tensor, size: int, dim: int, chunk: int, wrap: bool, sign: bool, factors: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Where in the pool the values (n * dim,) of rows lie, and whether their signs (n, dim) are positive: 1, else 0."""
    b, c, d, b_sign, c_sign, d_sign = factors
    x = (ids % PRIME)[:, None]
    starts = size if wrap else size - chunk + 1
    first = (x * b + (torch.arange(-(-dim // chunk), device=ids.device) * c + d)) % PRIME % starts
    at = (first[:, :, None] + torch.arange(chunk, device=ids.device)).flatten(1)[:, :dim]
    if wrap:
        at = at % size
    odd = (x * b_sign + (torch.arange(dim, device=ids.device) * c_sign + d_sign)) % PRIME & 1 if sign else None
    return at.reshape(-1), odd


def robe_rows(
    ids: Tensor,
    pools: Sequence[Tensor],
    fixed: Sequence[Tensor],
    dim: int,
    chunk: int,
    wrap: bool,
    sign: bool,
    factors: Sequence[int],
) -> Tensor:
    """Rows (n, dim) of one pool (size,)."""
    at, odd = _robe_places(ids, len(pools[0]), dim, chunk, wrap, sign, factors)
    values = pools[0].index_select(0, at).reshape(-1, dim)
    return values if odd is None else values * (2 * odd - 1).to(values.dtype)


def robe_gradients(
    grad: Tensor,
    ids: Tensor,
    pools: Sequence[Tensor],
    fixed: Sequence[Tensor],
    shapes: Shapes,
    dim: int,
    chunk: int,
    wrap: bool,
    sign: bool,
    factors: Sequence[int],
) -> list[Tensor]:
    """Of the pool; its values are not read."""
    at, odd = _robe_places(ids, shapes[0][0], dim, chunk, wrap, sign, factors)
    if odd is not None:
        grad = grad * (2 * odd - 1).to(grad.dtype)
    return [grad.new_zeros(shapes[0][0]).index_add_(0, at, grad.reshape(-1))]


# Adaptive: a row of its own for hot ids, shared ones, under signs, for the others.


def cold_rows(ids: Tensor, hot: int, cold: int, seed: int, sign: bool) -> Tensor:
    """The stored row that each id has where it is not hot, without a map of all ids."""
    return hot + (ids % cold if sign else reduce(scramble(ids, seed), cold))


def cold_signs(signs: Tensor, ids: Tensor, at: Tensor, hot: int, cold: int) -> Tensor:
    """The signs (n, dim) of ids whose rows lie at `at`, by a table of all patterns; those of hot ids are 1."""
    return signs[torch.where(at < hot, 0, ids // cold) & (len(signs) - 1)]


def _adapt_places(ids: Tensor, where: Tensor, by_map: bool, hot: int, cold: int, seed: int, sign: bool) -> Tensor:
    if by_map:
        return where[ids]
    shared = cold_rows(ids, hot, cold, seed, sign)
    if hot == 0:
        return shared
    at = torch.searchsorted(where, ids.contiguous()).clamp_(max=hot - 1)
    return torch.where(where[at] == ids, at, shared)


def adapt_rows(
    ids: Tensor,
    tables: Sequence[Tensor],
    fixed: Sequence[Tensor],
    by_map: bool,
    hot: int,
    cold: int,
    seed: int,
    sign: bool,
) -> Tensor:
    """Rows (n, dim) of one table; `fixed` is a row of each id or the hot ids, and with signs the table of patterns."""
    at = _adapt_places(ids, fixed[0], by_map, hot, cold, seed, sign)
    rows = nn.functional.embedding(at, tables[0])
    return rows * cold_signs(fixed[1], ids, at, hot, cold) if sign else rows


def adapt_gradients(
    grad: Tensor,
    ids: Tensor,
    tables: Sequence[Tensor],
    fixed: Sequence[Tensor],
    shapes: Shapes,
    by_map: bool,
    hot: int,
    cold: int,
    seed: int,
    sign: bool,
) -> list[Tensor]:
    """Of the table; its values are not read."""
    at = _adapt_places(ids, fixed[0], by_map, hot, cold, seed, sign)
    if sign:
        grad = grad * cold_signs(fixed[1], ids, at, hot, cold)
    return [_gathered(grad, at, shapes[0][0])]


# Codes: rows of a weight, which may be one that is held as integer codes (`_quantized.QuantizedRows`).


def codes_rows(ids: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor]) -> Tensor:
    """Rows (n, dim) of the weight."""
    return nn.functional.embedding(ids, weights[0])


def codes_gradients(
    grad: Tensor, ids: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor], shapes: Shapes
) -> list[Tensor]:
    """Of the weight; its values are not read."""
    return [_gathered(grad, ids, shapes[0][0])]


def decoded(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    """Float rows (n, dim) of integer codes, times the one step (1, 1) or that of each row (num_embeddings, 1)."""
    each = step if len(step) == 1 else step.index_select(0, ids)
    return codes.index_select(0, ids).to(step.dtype) * each
