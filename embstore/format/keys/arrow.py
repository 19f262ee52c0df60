"""Arrow arrays of keys, whatever their flavour, as the two buffers that the native index reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import IdTypeError
from .layout import Ids


def is_arrow(batch: object) -> bool:
    return type(batch).__module__.partition(".")[0] == "pyarrow" or hasattr(batch, "__arrow_c_array__")


def plain(batch: Any) -> Any:
    """One contiguous Arrow array of a string or integer type, without dictionary."""
    import pyarrow as pa

    if isinstance(batch, pa.Scalar):
        raise IdTypeError("a batch of keys must be an array or a list, found an Arrow scalar; pass [key]")
    if not isinstance(batch, (pa.Array, pa.ChunkedArray)):
        batch = pa.array(batch)
    if isinstance(batch, pa.ChunkedArray):
        batch = batch.combine_chunks()
        if isinstance(batch, pa.ChunkedArray):  # pyarrow before 17 keeps the wrapper
            batch = pa.concat_arrays(batch.chunks) if batch.num_chunks else pa.array([], batch.type)
    if isinstance(batch, pa.ExtensionArray):
        batch = batch.storage
    if pa.types.is_dictionary(batch.type):
        batch = batch.dictionary_decode()
    return batch


def packed(batch: Any) -> tuple[Ids, npt.NDArray[np.uint8]]:
    """Offsets (n + 1) and values of an Arrow string array without nulls."""
    import pyarrow as pa

    if batch.type != pa.large_string():
        batch = batch.cast(pa.large_string())
    n = len(batch)
    _, offsets, values = batch.buffers()
    if n == 0 or offsets is None:
        return np.zeros(n + 1, np.int64), np.empty(0, np.uint8)
    starts = np.frombuffer(offsets, np.int64)[batch.offset : batch.offset + n + 1]
    return starts, np.empty(0, np.uint8) if values is None else np.frombuffer(values, np.uint8)


def is_text(batch: Any) -> bool:
    import pyarrow as pa

    view = getattr(pa.types, "is_string_view", lambda _: False)
    return bool(pa.types.is_string(batch.type) or pa.types.is_large_string(batch.type) or view(batch.type))
