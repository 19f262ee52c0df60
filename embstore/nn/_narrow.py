"""Tables of narrow rows, as `mixed_dim` stores them: their bytes and their arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..arrays import TableShape
from ..errors import BudgetError
from ..method import nbytes
from ..methods import _groups
from ..methods._table_rows import RowCoding
from ..methods.mixed_dim import MixedDim

_FLOATS = RowCoding("float32")


def narrow_nbytes(shape: TableShape, dims: int, kind: str = "float32") -> int:
    """Bytes of a table whose rows all have `dims` values, with a projection where these are fewer than the row's.

    `kind` is that of the `RowCoding` of the rows.
    """
    method = MixedDim.from_config({"blocks": 1, "values": kind})
    return nbytes(method, shape, **method.sizes(shape, np.array([dims]), in_order=True))


# Optimizers with steps of one size move narrow rows faster by it, which have to say as much in fewer values.
_GAIN = 2.0


def first_projection(dims: int, dim: int) -> Tensor:
    """What a projection (dims, dim) starts as: the first rows of the identity, times a gain.

    So dot products of rows of two fields start as those of the values both have. Random projections would mix each
    value with all of the other field's, which training first has to undo.
    """
    return _GAIN * torch.eye(dims, dim)


def narrow_arrays(
    group: npt.NDArray[np.uint8],
    tables: Sequence[npt.NDArray[Any]],
    projections: Sequence[npt.NDArray[Any] | None],
    dim: int,
    coding: RowCoding = _FLOATS,
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `mixed_dim` for the group of each row, tables (rows of a group, dims), and projections (dims, dim).

    A projection is None for a table of full rows, and only there. `coding` says how the tables are stored.
    """
    stored = [p for p in projections if p is not None]
    return {
        **_groups.build(group, len(tables)),
        "dims": np.array([table.shape[1] for table in tables], np.int32),
        "projections": np.ascontiguousarray(np.concatenate([np.zeros((0, dim), np.float32), *stored]), np.float32),
        **{f"values_{g}": coding.encode(table).reshape(-1) for g, table in enumerate(tables)},
    }


def check_floor(name: str, floor: int, limit: int | None) -> None:
    """`BudgetError` naming the floor where it is above the limit."""
    if limit is not None and limit < floor:
        raise BudgetError(f"method {name!r} needs at least {floor:,} bytes, found a budget of {limit:,}; raise it")
