"""Products with a matrix in one fixed order, so that every instruction set and numpy give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

F64 = npt.NDArray[np.float64]

_VALUES = 1 << 15  # of sums at a time, which stay in the cache while the matrix passes
# Columns and rows of a product that OpenBLAS leaves to one thread.
_COLUMNS, _ROWS = 32, 256
# Longer rows are worth the threads of a BLAS product.
_SHORT = 512


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


def gram(rows: F64) -> F64:
    """rows.T @ rows, (dim, dim).

    Up to 512 values in products of small tiles: the threads of a BLAS product wait for each other every few hundred
    rows, which on a machine with other work takes longer than all the arithmetic on one thread.
    """
    dim = rows.shape[1]
    if dim > _SHORT:
        whole: F64 = rows.T @ rows
        return whole
    sums = np.zeros((dim, dim))
    for first in range(0, len(rows), _ROWS):
        tile = rows[first : first + _ROWS]
        for i in range(0, dim, _COLUMNS):
            left = tile[:, i : i + _COLUMNS].T
            for j in range(i, dim, _COLUMNS):
                sums[i : i + _COLUMNS, j : j + _COLUMNS] += left @ tile[:, j : j + _COLUMNS]
    lower = np.tril_indices(dim, -1)
    sums[lower] = sums.T[lower]
    return sums


def leading(gram: npt.NDArray[np.float64], count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(`count` leading eigenvectors of a symmetric matrix as rows, all eigenvalues descending, none below 0)."""
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values, kind="stable")[::-1]
    found = vectors.T[order]
    # An eigenvector's sign is arbitrary: the largest entry is made positive, so that libraries agree.
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    found *= np.where(largest < 0, -1.0, 1.0)
    return found[:count], np.maximum(values[order], 0.0)
