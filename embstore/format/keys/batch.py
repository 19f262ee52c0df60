"""Keys to be stored, as users hold them: lists, numpy or Arrow arrays, checked one by one.

`first` is the row of the batch's first key, for messages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ... import native
from ...errors import ShapeError, SourceError
from . import arrow
from .files import shown
from .layout import Ids, KeyType


def texts(keys: Any, first: int) -> tuple[Ids, npt.NDArray[np.uint8]]:
    """Offsets (n + 1) and UTF-8 of string keys. `SourceError` names the first that is not text."""
    offsets, values = _packed(keys, first)
    bad = native.require("writing keys").first_not_utf8(offsets, values)
    if bad >= 0:
        raise SourceError(f"key of row {first + bad} must be UTF-8, found other bytes; decode it first")
    return offsets, values


def _packed(keys: Any, first: int) -> tuple[Ids, npt.NDArray[np.uint8]]:
    import pyarrow as pa

    if arrow.is_arrow(keys):
        batch = arrow.plain(keys)
        if not arrow.is_text(batch):
            raise SourceError(f"keys must be strings, found an Arrow array of {batch.type}; convert the column")
        if batch.null_count:
            raise _null(batch, first)
        return arrow.packed(batch)
    items = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
    if not set(map(type, items)) <= {str}:
        for at, key in enumerate(items):
            if not isinstance(key, str):
                raise _wrong("string", first + at, key)
        items = [str(key) for key in items]
    try:
        return arrow.packed(pa.array(items, pa.large_string()))
    except UnicodeEncodeError:
        for at, key in enumerate(items):
            try:
                key.encode()
            except UnicodeEncodeError:
                raise SourceError(
                    f"key of row {first + at} must be Unicode text, found {shown(key)} with a lone "
                    'surrogate; decode the source with errors="replace" or drop the row'
                ) from None
        raise


def integers(keys: Any, first: int) -> npt.NDArray[Any]:
    """Integer keys that fit int64, in whatever integer dtype they came. `SourceError` names the first that does not."""
    if arrow.is_arrow(keys):
        import pyarrow as pa

        batch = arrow.plain(keys)
        if not pa.types.is_integer(batch.type):
            raise SourceError(f"keys must be integers, found an Arrow array of {batch.type}; use string keys")
        if batch.null_count:
            raise _null(batch, first)
        keys = batch.to_numpy(zero_copy_only=False)
    if not isinstance(keys, np.ndarray) or keys.dtype == object:
        items = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
        for at, key in enumerate(items):
            if isinstance(key, (bool, np.bool_)) or not isinstance(key, (int, np.integer)):
                raise _wrong("int64", first + at, key)
            if not -(2**63) <= int(key) < 2**63:
                raise _wrong("int64", first + at, key)
        return np.array(items, np.int64)
    if keys.ndim != 1:
        raise ShapeError(f"keys must have one dimension, found shape {keys.shape}; pass keys.ravel()")
    if keys.dtype.kind not in "iu":
        raise SourceError(f"keys must be integers, found dtype {keys.dtype}; use string keys")
    if keys.dtype.itemsize == 8 and keys.dtype.kind == "u":
        beyond = np.flatnonzero(keys > np.uint64(2**63 - 1))
        if beyond.size:
            raise _wrong("int64", first + int(beyond[0]), keys[beyond[0]])
    return keys


def _wrong(key_type: KeyType, row: int, key: object) -> SourceError:
    expected, cure = (
        ("a string", "convert the keys to str") if key_type == "string" else
        ("an integer of 64 bits with sign", "use string keys, or view unsigned keys as int64")
    )  # fmt: skip
    return SourceError(f"key of row {row} must be {expected}, found {type(key).__name__} {shown(key)}; {cure}")


def _null(batch: Any, first: int) -> SourceError:
    at = int(np.flatnonzero(np.asarray(batch.is_null()))[0])
    return SourceError(f"key of row {first + at} must not be null; give every row a key or drop the row")
