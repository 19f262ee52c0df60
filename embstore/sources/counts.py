"""How often each row of a source is used: given beside it, for the methods that spend bytes by frequency."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError, SourceNotFoundError, SourceTypeError
from ._source import first_line
from .base import RowSource


def read_counts(given: Any, source: RowSource) -> npt.NDArray[np.float64] | None:
    """The counts of the rows of `source`, float64 (num_embeddings,); None for None.

    `given` is an array or sequence of numbers, the path of a .npy file, or the name of a column of the source.
    Raises `SourceError` unless it has a finite number that is not negative for each row, and one above zero.
    """
    if given is None:
        return None
    if isinstance(given, (str, os.PathLike)):
        values = _column(given, source) if isinstance(given, str) else None
        values = _file(given, source) if values is None else values
    else:
        values = _numbers(given)
    rows = source.shape.num_embeddings
    if values.shape != (rows,):
        found = f"{len(values)} of them" if values.ndim == 1 else f"an array of shape {values.shape}"
        raise SourceError(f"counts must be {rows} numbers, one for each row of {source.name!r}, found {found}")
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise SourceError(f"counts must be finite and not negative, found {values[row]:g} for row {row}; mend them")
    if rows and not values.any():
        raise SourceError("counts must have one above zero, found only zeros; leave them out if they are not known")
    return np.ascontiguousarray(values)


def _column(name: str, source: RowSource) -> npt.NDArray[np.float64] | None:
    """The column `name`, where the source has columns and one of them is called so."""
    numbers = getattr(source, "numbers", None)
    try:
        return None if numbers is None else numbers(name)
    except KeyError:
        return None


def _file(path: str | os.PathLike[str], source: RowSource) -> npt.NDArray[np.float64]:
    name = os.path.basename(path)
    if not os.path.isfile(path):
        raise SourceNotFoundError(
            f"counts must be a .npy file or a column of {source.name!r}, found {name!r}, which is neither; check it"
        )
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(
            f"counts must be a .npy file of numbers, found {name!r}, which cannot be read as one ({first_line(error)})"
        ) from None
    if not isinstance(loaded, np.ndarray):
        raise SourceError(f"counts must be one array in a .npy file, found {name!r}, an archive of several; save one")
    return _numbers(loaded)


def _numbers(given: Any) -> npt.NDArray[np.float64]:
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    array = np.asarray(given)
    if array.dtype.kind not in "iufb":
        raise SourceTypeError(f"counts must be numbers, found {array.dtype} values; give an array of them")
    return array.astype(np.float64)
