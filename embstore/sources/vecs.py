"""`.fvecs`, `.bvecs`, `.ivecs`: each row is an int32 width, then that many values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._io import FileReader, bad
from ._source import BaseSource, MatrixSource

VALUES = {"fvecs": "<f4", "bvecs": "u1", "ivecs": "<i4"}


def fits(reader: FileReader, format: str) -> bool:
    """Whether the first widths and the file size agree with this format."""
    if reader.size < 5:
        return False
    dims = int.from_bytes(reader.read(0, 4), "little", signed=True)
    row = 4 + dims * np.dtype(VALUES[format]).itemsize
    if not 1 <= dims <= 2**20 or reader.size % row:
        return False
    return all(reader.read(i * row, 4) == reader.read(0, 4) for i in range(min(4, reader.size // row)))


def open_vecs(reader: FileReader, format: str) -> BaseSource:
    """One of the three; every width is checked as its row streams by."""
    values = np.dtype(VALUES[format])
    dims = int.from_bytes(reader.read(0, 4), "little", signed=True)
    if not 1 <= dims <= 2**20:
        raise bad(reader.name, "rows of 1 to 2**20 dims", f"a width of {dims}", "is it this format?")
    width = 4 + dims * values.itemsize
    if reader.size % width:
        raise bad(
            reader.name,
            f"whole rows of {width} bytes",
            f"{reader.size % width} bytes after row {reader.size // width}",
            "it is truncated or of mixed width; get the file again",
        )

    def decode(raw: npt.NDArray[np.uint8], first: int) -> npt.NDArray[Any]:
        widths = raw[:, :4].copy().view("<i4")[:, 0]
        if (widths != dims).any():
            row = int(np.argmax(widths != dims))
            raise bad(
                reader.name, f"{dims} dims in every row", f"{widths[row]} in row {first + row}", "split it by width"
            )
        return raw[:, 4:].copy().view(values)

    return MatrixSource(
        reader,
        format=format,
        offset=0,
        rows=reader.size // width,
        dims=dims,
        dtype=values.name,
        row_nbytes=width,
        decode=decode,
    )
