"""Queries for scores of codes as they are: in integers, as in csrc/search/_integer.h and _packed.h, or for tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..method import FloatRows, Method, Named
from ..pipeline import Pipeline

_LARGEST = 127  # of a query's integers; hosts with AVX2 alone take 64 for codes of 8 bits
_WORD = 16  # columns that rows are filled up to


@dataclass(frozen=True)
class Coded:
    """Queries of a batch.

    values : int8 (n, columns of codes filled up to a multiple of 16).
    sums : float32 (n, blocks), the sum of the integers over each block of columns.
    terms : float32 (n, 3), for each query the shift and factor of its sums, and the constant part of its scores.
    """

    values: npt.NDArray[np.int8]
    sums: npt.NDArray[np.float32]
    terms: npt.NDArray[np.float32]


def in_integers(method: Method) -> bool:
    """Whether codes of a method stand for integers, so that they can be scored so."""
    return _inner(method).id in ("int8", "int4", "rabitq", "binary")


def _inner(method: Method) -> Method:
    return method.method if isinstance(method, Pipeline) else method


@dataclass(frozen=True)
class Projected:
    """Queries of a batch for codes that are scored by tables, which the device makes.

    values : float32 (n, columns of codes); zero for queries with NaN or infinities.
    constants : float32 (n,), the constant part of their scores.
    """

    values: npt.NDArray[np.float32]
    constants: npt.NDArray[np.float32]


def projected(method: Method, shared: Named, queries: FloatRows) -> Projected:
    """Queries (n, embedding_dim) in the space of codes."""
    constants = np.zeros(len(queries), np.float32)
    if isinstance(method, Pipeline):
        with np.errstate(all="ignore"):
            queries, constants = method.adjoint(shared, queries)
    usable = np.asarray(np.isfinite(queries).all(axis=1))
    constants = np.where(usable & np.isfinite(constants), constants, np.float32(0))
    return Projected(np.where(usable[:, None], queries, np.float32(0)), constants)


def coded(method: Method, shared: Named, queries: FloatRows, block: int) -> Coded:
    """Queries (n, embedding_dim) for codes of `in_integers`, which a device scores by blocks of columns.

    A query with NaN or infinities scores zero everywhere.
    """
    inner, given = _inner(method), projected(method, shared, queries)
    queries = given.values
    n, dim = queries.shape
    top = np.abs(queries).max(axis=1).astype(np.float32)
    usable = top > 0
    top = np.where(usable, top, np.float32(1))[:, None]
    steps = np.where(usable, top[:, 0] / np.float32(_LARGEST), np.float32(0))
    terms = np.zeros((n, 3), np.float32)
    if inner.id in ("int8", "int4"):
        integers = np.rint(queries.astype(np.float64) * (_LARGEST / top.astype(np.float64)))
        terms[:, 1] = steps
    else:
        # Of the level between codes and of the distance of levels, as the scale of a row counts them.
        bits = int(inner.config().get("bits", 1))
        middle, unit = np.float32(0.5 * ((1 << bits) - 1)), np.float32(2 if inner.id == "binary" else 1)
        integers = np.rint(np.clip(queries / top * np.float32(_LARGEST), -_LARGEST, _LARGEST))
        terms[:, 0] = -middle * integers.sum(axis=1).astype(np.float32)
        terms[:, 1] = steps * unit
    terms[:, 2] = given.constants
    values = np.zeros((n, -(-dim // _WORD) * _WORD), np.int8)
    values[:, :dim] = integers
    sums = np.add.reduceat(values.astype(np.int64), np.arange(0, dim, block), axis=1).astype(np.float32)
    return Coded(values, sums, terms)
