"""Base of all readers, rows at fixed offsets of a file, and arrays in memory."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..arrays import TableShape
from ..errors import ConfigError, SourceError
from ..method import FloatRows
from ._io import FileReader, as_float32, check_dtype, table_shape
from .base import Chunk, KeyType, Subwords
from .keys import KeyList, Keys, as_keys

Block = tuple[FloatRows, KeyList | None]


class BaseSource(abc.ABC):
    """Checks arguments, pairs rows with keys and counts rows; subclasses define `_blocks`."""

    def __init__(
        self, name: str, format: str, shape: TableShape, dtype: str, fingerprint: str, keys: Keys | None = None
    ) -> None:
        self.name = name
        self.format = format
        self.shape = shape
        self.dtype = dtype
        self.key_type: KeyType | None = None
        self.num_keys = 0
        self.subwords: Subwords | None = None
        self._fingerprint = fingerprint
        self._keys: Keys | None = None
        if keys is not None:
            self._use(keys)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def set_keys(self, keys: Any) -> None:
        """Put `keys` in place of the source's own; one for each row (each word row, with subwords)."""
        given = as_keys(keys)
        expected = self.num_keys if self.subwords is not None else self.shape.num_embeddings
        if given.count != expected:
            raise SourceError(f"source {self.name!r} needs {expected} keys, found {given.count}; give one for each row")
        self._use(given)
        self._fingerprint = f"{self.fingerprint}+{given.fingerprint}"

    def _use(self, keys: Keys) -> None:
        self._keys = keys
        self.key_type = keys.key_type
        self.num_keys = min(keys.count, self.shape.num_embeddings)

    @abc.abstractmethod
    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        """Rows from `start` in order, with their keys where the format has them side by side."""

    def chunks(self, max_rows: int, start: int = 0) -> Iterator[Chunk]:
        """Rows in order from `start`, at most `max_rows` at a time."""
        total = self.shape.num_embeddings
        if max_rows < 1 or not 0 <= start <= total:
            raise ConfigError(f"chunks needs max_rows >= 1 and start in 0..{total}, found {max_rows} and {start}")
        take = self._keys.cursor(start) if self._keys is not None else None
        at = start
        if at == total:
            return
        for rows, keys in self._blocks(max_rows, start):
            if take is not None:
                keys = take(max(0, min(len(rows), self.num_keys - at)))
            yield Chunk(at, rows, keys)
            at += len(rows)
        if at != total:
            raise SourceError(f"source {self.name!r} must have {total} rows, found {at}; get the file again")

    def close(self) -> None:  # noqa: B027
        """Release the file; chunks cannot be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ArraySource(BaseSource):
    """Rows of a 2-D numpy array in memory."""

    def __init__(
        self, array: npt.NDArray[Any], *, name: str = "array", format: str = "numpy", keys: Any = None
    ) -> None:
        if array.ndim != 2:
            raise SourceError(f"source {name!r} must be a 2-D array, found {array.ndim}-D; reshape it to rows x dims")
        check_dtype(name, array.dtype)
        super().__init__(name, format, table_shape(name, *array.shape), str(array.dtype), "")
        self._array = array
        if keys is not None:
            self.set_keys(keys)

    @property
    def fingerprint(self) -> str:
        # Only resuming asks for it, so the whole content is hashed when asked and not before.
        if not self._fingerprint or self._fingerprint.startswith("+"):
            digest = hashlib.blake2b(f"{self._array.dtype.str}{self._array.shape}".encode(), digest_size=16)
            for start in range(0, len(self._array), 4096):
                digest.update(np.ascontiguousarray(self._array[start : start + 4096]).data)
            self._fingerprint = digest.hexdigest() + self._fingerprint
        return self._fingerprint

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        for at in range(start, len(self._array), max_rows):
            yield as_float32(self._array[at : at + max_rows]), None


class SliceSource(BaseSource):
    """Rows of anything that slices like a numpy array: an HDF5 dataset, a Zarr array, a torch tensor."""

    def __init__(
        self, array: Any, slicer: Callable[[int, int], npt.NDArray[Any]], dtype: str, **described: Any
    ) -> None:
        name = described["name"]
        super().__init__(shape=table_shape(name, int(array.shape[0]), int(array.shape[1])), dtype=dtype, **described)
        self._array = array
        self._slice = slicer
        self.on_close: Callable[[], object] | None = None

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        for at in range(start, self.shape.num_embeddings, max_rows):
            stop = min(at + max_rows, self.shape.num_embeddings)
            try:
                rows = self._slice(at, stop)
            except Exception as error:
                # Each library has errors of its own for damaged chunks.
                raise SourceError(
                    f"source {self.name!r} is damaged in rows {at} to {stop}: {first_line(error)}; get it again"
                ) from error
            yield as_float32(rows), None

    def close(self) -> None:
        if self.on_close is not None:
            self.on_close()


Decode = Callable[[npt.NDArray[np.uint8], int], npt.NDArray[Any]]


class MatrixSource(BaseSource):
    """Rows of equal byte size at a known offset of a file.

    `decode(raw, first_row)` turns uint8 (n, row_nbytes) into (n, embedding_dim) values; without it the bytes
    are values of `dtype`. The file is held against the shape before anything is read.
    """

    def __init__(
        self,
        reader: FileReader,
        *,
        format: str,
        offset: int,
        rows: int,
        dims: int,
        dtype: np.dtype[Any] | str,
        name: str | None = None,
        fortran: bool = False,
        row_nbytes: int | None = None,
        decode: Decode | None = None,
        keys: Keys | None = None,
        fingerprint: str = "",
    ) -> None:
        name = name or reader.name
        shape = table_shape(name, rows, dims)
        super().__init__(name, format, shape, str(dtype), f"{reader.fingerprint}{fingerprint}", keys)
        self._reader = reader
        self._offset = offset
        self._stored = None if decode else check_dtype(name, np.dtype(dtype))
        self._decode = decode
        self._fortran = fortran
        self._row_nbytes = row_nbytes or dims * np.dtype(dtype).itemsize
        if offset + rows * self._row_nbytes > reader.size:
            raise reader.short(offset + rows * self._row_nbytes)

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        for at in range(start, self.shape.num_embeddings, max_rows):
            n = min(max_rows, self.shape.num_embeddings - at)
            yield (self._columns(at, n) if self._fortran else self._rows(at, n)), None

    def _rows(self, at: int, n: int) -> FloatRows:
        where = self._offset + at * self._row_nbytes
        if self._decode is not None:
            raw = np.empty((n, self._row_nbytes), np.uint8)
            self._reader.into(where, raw)
            return as_float32(self._decode(raw, at))
        values = np.empty((n, self.shape.embedding_dim), self._stored)
        self._reader.into(where, values)
        return as_float32(values)

    def _columns(self, at: int, n: int) -> FloatRows:
        assert self._stored is not None
        values = np.empty((self.shape.embedding_dim, n), self._stored)
        size = self._stored.itemsize
        for i, column in enumerate(values):
            self._reader.into(self._offset + (i * self.shape.num_embeddings + at) * size, column)
        return as_float32(values.T)

    def close(self) -> None:
        self._reader.close()


def first_line(error: BaseException) -> str:
    """The first line of a library's message, cut to a readable length."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
