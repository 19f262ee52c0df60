"""Products with a matrix in one fixed order, so that every instruction set and numpy give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

_VALUES = 1 << 15  # of sums at a time, which stay in the cache while the matrix passes


def multiply(codes: F32, matrix: npt.NDArray[Any]) -> F32:
    """codes @ matrix, adding in the order of the matrix's rows and rounding each product, as the native kernel does.

    Unlike a BLAS product, a row's bits do not depend on the rows beside it. The matrix has at least one row.
    """
    out = np.empty((len(codes), matrix.shape[1]), np.float32)
    step = max(1, _VALUES // matrix.shape[1])
    for first in range(0, len(codes), step):
        code, sums = codes[first : first + step], out[first : first + step]
        np.multiply(code[:, :1], matrix[0], out=sums)
        for k in range(1, len(matrix)):
            sums += code[:, k : k + 1] * matrix[k]
    return out


def leading(gram: npt.NDArray[np.float64], count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(`count` leading eigenvectors of a symmetric matrix as rows, all eigenvalues descending, none below 0)."""
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values, kind="stable")[::-1]
    found = vectors.T[order]
    # An eigenvector's sign is arbitrary: the largest entry is made positive, so that libraries agree.
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    found *= np.where(largest < 0, -1.0, 1.0)
    return found[:count], np.maximum(values[order], 0.0)
