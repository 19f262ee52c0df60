"""The first pass: candidates by a scan of all codes, without decoding them where the method can be scored so."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import kernels
from ..method import FloatRows, Ids, Method
from ..pipeline import Pipeline

F32 = npt.NDArray[np.float32]


class Scan:
    """Scores of all rows of a table: (<q, code> + constant) * scale of the row + bias of the row."""

    def __init__(
        self, method: Method, shared: Mapping[str, npt.NDArray[Any]], bound: kernels.Bound, num_embeddings: int
    ) -> None:
        self._method, self._shared, self._bound, self._rows = method, shared, bound, num_embeddings

    def __call__(self, queries: FloatRows, k: int, metric: str, allowed: npt.NDArray[np.uint8] | None) -> Ids:
        """Candidates (n, k) for each query, about best first; -1 for none. `allowed` : see `exact.check_filter`."""
        constants = None
        if isinstance(self._method, Pipeline):
            queries, constants = self._method.adjoint(self._shared, queries)
        scales = self._inverse_norms if metric == "cosine" else None
        biases = self._half_squares if metric == "l2" else None
        ids = np.empty((len(queries), k), np.int64)
        terms = kernels.ScanTerms(constants, scales, biases, allowed)
        self._bound.scan(queries, k, terms, ids, kernels.get_num_threads())
        return ids

    # Four bytes a row each, made when a metric first needs them.
    @functools.cached_property
    def _squared_norms(self) -> F32:
        norms = np.empty(self._rows, np.float32)
        self._bound.squared_norms(norms, kernels.get_num_threads())
        return norms

    @functools.cached_property
    def _inverse_norms(self) -> F32:
        norms = np.sqrt(self._squared_norms)
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)

    @functools.cached_property
    def _half_squares(self) -> F32:
        return self._squared_norms * np.float32(-0.5)
