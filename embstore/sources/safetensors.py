"""`.safetensors`: a JSON header with offsets, then raw little-endian tensors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ._io import FileReader, bad, bfloat16, pick
from ._source import BaseSource, MatrixSource, first_line
from .keys import HeldKeys, Keys

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
}
MAX_HEADER = 100_000_000


def fits(reader: FileReader) -> bool:
    """Whether the file starts like a safetensors header."""
    if reader.size < 10:
        return False
    start = reader.read(0, 9)
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= MAX_HEADER


def read_header(reader: FileReader) -> tuple[dict[str, dict[str, Any]], int]:
    """The tensors by name, each held against the file, and where their data starts."""
    cure = "get the file again"
    length = int.from_bytes(reader.read(0, 8), "little")
    if length > min(MAX_HEADER, reader.size - 8):
        raise reader.short(8 + length)
    try:
        fields = json.loads(reader.read(8, length))
        if not isinstance(fields, dict):
            raise TypeError("no JSON object")
        fields.pop("__metadata__", None)
        room = reader.size - 8 - length
        for name, field in fields.items():
            begin, end = field["data_offsets"]
            shape = field["shape"]
            if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)) or not begin <= end:
                raise ValueError(f"tensor {name!r} has negative or odd sizes")
            if end > room:
                raise reader.short(8 + length + end)
            stored = DTYPES.get(field["dtype"])
            if stored and end - begin != math.prod(shape) * np.dtype(stored).itemsize:
                raise ValueError(f"tensor {name!r} has {end - begin} bytes for shape {shape}")
    except SourceError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise bad(reader.name, "a valid safetensors header", first_line(error), cure) from None
    return fields, 8 + length


def open_safetensors(reader: FileReader, name: str | None, key_column: str | None) -> BaseSource:
    """One 2-D tensor; `key_column` names a 1-D integer tensor."""
    fields, base = read_header(reader)
    wanted = pick(reader.name, "tensor", {n: f["shape"] for n, f in fields.items()}, name)
    field = fields[wanted]
    stored = DTYPES.get(field["dtype"])
    if stored is None:
        raise bad(reader.name, f"a dtype of {', '.join(DTYPES)}", field["dtype"], "convert the tensor to F32")
    keys = None
    if key_column is not None:
        column = pick(reader.name, "tensor", {n: f["shape"] for n, f in fields.items()}, key_column, ndim=1)
        keys = _integer_keys(reader, fields[column], base, column)
        if keys.count != field["shape"][0]:
            raise bad(reader.name, f"{field['shape'][0]} keys", keys.count, "choose another key tensor")
    half = field["dtype"] == "BF16"
    rows, dims = field["shape"]
    return MatrixSource(
        reader,
        format="safetensors",
        offset=base + field["data_offsets"][0],
        rows=rows,
        dims=dims,
        dtype="bfloat16" if half else np.dtype(stored),
        row_nbytes=dims * np.dtype(stored).itemsize,
        decode=_bfloat16_rows if half else None,
        keys=keys,
        fingerprint=f"-{wanted}",
    )


def _bfloat16_rows(raw: npt.NDArray[np.uint8], _: int) -> npt.NDArray[Any]:
    return bfloat16(raw.view("<u2"))


def _integer_keys(reader: FileReader, field: dict[str, Any], base: int, name: str) -> Keys:
    stored = DTYPES.get(field["dtype"], "")
    if np.dtype(stored or "f4").kind not in "iu" or field["dtype"] == "BF16":
        raise bad(reader.name, f"integers in key tensor {name!r}", field["dtype"], "choose another key tensor")
    values = np.empty(field["shape"], stored)
    reader.into(base + field["data_offsets"][0], values)
    return HeldKeys("int64", values.astype(np.int64))
