"""Raw memory dumps: the caller gives dtype and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ._io import FileReader, bad, bfloat16
from ._source import BaseSource, MatrixSource


def open_raw(reader: FileReader, dtype: Any, shape: Sequence[int] | None) -> BaseSource:
    """Rows of `dtype` in C order; one size of `shape` may be -1."""
    if dtype is None or shape is None or len(shape) != 2:
        raise ConfigError(
            f"a raw source needs dtype and shape (rows, dims), found dtype {dtype!r} and shape {shape!r}; give both"
        )
    half = str(dtype) in ("bfloat16", "bf16")
    try:
        stored = np.dtype("<u2" if half else dtype)
    except TypeError:
        raise ConfigError(f"dtype must be one numpy knows or 'bfloat16', found {dtype!r}; correct it") from None
    rows, dims = int(shape[0]), int(shape[1])
    unit = stored.itemsize
    if rows < 0 and dims > 0:
        rows = reader.size // (dims * unit)
    elif dims < 0 and rows > 0:
        dims = reader.size // (rows * unit)
    if rows < 1 or dims < 1:
        raise ConfigError(f"shape must have positive sizes and at most one -1, found {tuple(shape)}; correct it")
    if rows * dims * unit != reader.size:
        raise bad(
            reader.name, f"{rows * dims * unit} bytes ({rows} x {dims} x {unit})", reader.size, "check dtype and shape"
        )
    return MatrixSource(
        reader,
        format="raw",
        offset=0,
        rows=rows,
        dims=dims,
        dtype="bfloat16" if half else stored,
        row_nbytes=dims * unit,
        decode=_bfloat16_rows if half else None,
        fingerprint=f"-{rows}x{dims}-{stored}",
    )


def _bfloat16_rows(raw: npt.NDArray[np.uint8], _: int) -> npt.NDArray[Any]:
    return bfloat16(raw.view("<u2"))
