"""The matrices inside fastText models: dense float32, or product-quantized rows with quantized norms."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..method import FloatRows
from ._io import Cursor, FileReader, bad

CENTROIDS = 256


class Matrix(Protocol):
    """Rows by id; `drop` gives mapped pages back."""

    rows: int
    dims: int
    quantized: bool

    def gather(self, ids: npt.NDArray[np.int64]) -> FloatRows: ...
    def drop(self) -> None: ...


def read_matrix(cursor: Cursor, quantized: bool) -> Matrix:
    """The matrix at the cursor, which moves behind it. Its data is mapped, not read."""
    return _read_quantized(cursor) if quantized else _read_dense(cursor)


def _map(reader: FileReader) -> mmap.mmap:
    return mmap.mmap(reader._file.fileno(), 0, access=mmap.ACCESS_READ)


class Dense:
    """float32 rows; word rows and bucket rows are met in no order, so the file is mapped."""

    quantized = False

    def __init__(self, reader: FileReader, offset: int, rows: int, dims: int) -> None:
        self.rows = rows
        self.dims = dims
        self._map = _map(reader)
        self._values = np.frombuffer(self._map, "<f4", rows * dims, offset).reshape(rows, dims)

    def gather(self, ids: npt.NDArray[np.int64]) -> FloatRows:
        return np.asarray(self._values[ids], np.float32)

    def drop(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Stacked:
    """Two float32 matrices of equal width, one above the other; gensim keeps words and buckets apart."""

    quantized = False

    def __init__(self, top: npt.NDArray[Any], bottom: npt.NDArray[Any]) -> None:
        self._top = top
        self._bottom = bottom
        self.rows = len(top) + len(bottom)
        self.dims = int(top.shape[1])

    def gather(self, ids: npt.NDArray[np.int64]) -> FloatRows:
        out = np.empty((len(ids), self.dims), np.float32)
        upper = ids < len(self._top)
        out[upper] = self._top[ids[upper]]
        out[~upper] = self._bottom[ids[~upper] - len(self._top)]
        return out

    def drop(self) -> None:
        """Give back the pages of side files that are mapped."""
        for part in (self._top, self._bottom):
            if isinstance(part, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
                part._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Centroids of each group of `width` columns; the last group may be narrower."""

    dims: int
    groups: int
    width: int
    centroids: npt.NDArray[np.float32]

    @classmethod
    def read(cls, cursor: Cursor, dims: int) -> Quantizer:
        found, groups, width, last = struct.unpack("<4i", cursor.read(16))
        if found != dims or width < 1 or last < 1 or last > width or groups * width - width + last != dims:
            raise bad(cursor.reader.name, f"a quantizer of {dims} dims", (found, groups, width, last), "get it again")
        data = cursor.read(4 * dims * CENTROIDS)
        return cls(dims, groups, width, np.frombuffer(data, "<f4").astype(np.float32))

    def decode(self, codes: npt.NDArray[np.uint8]) -> FloatRows:
        out = np.empty((len(codes), self.dims), np.float32)
        at = 0
        for g in range(self.groups):
            lo = g * self.width
            hi = min(lo + self.width, self.dims)
            table = self.centroids[at : at + CENTROIDS * (hi - lo)].reshape(CENTROIDS, hi - lo)
            out[:, lo:hi] = table[codes[:, g]]
            at += CENTROIDS * (hi - lo)
        return out


class Quantized:
    """Codes of a product quantizer, times a norm where norms were quantized apart."""

    quantized = True

    def __init__(
        self, reader: FileReader, rows: int, codes_at: int, product: Quantizer, norms_at: int, norms: Quantizer | None
    ) -> None:
        self.rows = rows
        self.dims = product.dims
        self._map = _map(reader)
        self._codes = np.frombuffer(self._map, np.uint8, rows * product.groups, codes_at).reshape(rows, -1)
        self._product = product
        self._norms = norms
        self._norm_codes = np.frombuffer(self._map, np.uint8, rows if norms else 0, norms_at)

    def gather(self, ids: npt.NDArray[np.int64]) -> FloatRows:
        rows = self._product.decode(self._codes[ids])
        if self._norms is not None:
            rows *= self._norms.centroids[self._norm_codes[ids]][:, None]
        return rows

    def drop(self) -> None:
        """Codes are small; nothing to give back."""


def _sizes(cursor: Cursor) -> tuple[int, int]:
    rows, dims = struct.unpack("<qq", cursor.read(16))
    # Without rows (an output matrix never trained) there is nothing to hold dims against.
    if not 0 <= rows <= 2**40 or not 0 <= dims <= 2**20:
        raise bad(cursor.reader.name, "a matrix of sane size", f"{rows} x {dims}", "get the file again")
    return rows, dims


def _skip(cursor: Cursor, nbytes: int) -> int:
    at = cursor.offset
    if at + nbytes > cursor.reader.size:
        raise cursor.reader.short(at + nbytes)
    cursor.offset += nbytes
    return at


def _read_dense(cursor: Cursor) -> Matrix:
    rows, dims = _sizes(cursor)
    return Dense(cursor.reader, _skip(cursor, 4 * rows * dims), rows, dims)


def _read_quantized(cursor: Cursor) -> Matrix:
    with_norms = bool(cursor.read(1)[0])
    rows, dims = _sizes(cursor)
    (size,) = struct.unpack("<i", cursor.read(4))
    if size < 0:
        raise bad(cursor.reader.name, "codes", f"{size} bytes of them", "get the file again")
    codes_at = _skip(cursor, size)
    product = Quantizer.read(cursor, dims)
    if size != rows * product.groups:
        raise bad(cursor.reader.name, f"{rows * product.groups} bytes of codes", size, "get the file again")
    norms_at = _skip(cursor, rows) if with_norms else 0
    norms = Quantizer.read(cursor, 1) if with_norms else None
    return Quantized(cursor.reader, rows, codes_at, product, norms_at, norms)
