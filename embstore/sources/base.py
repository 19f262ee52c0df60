"""What every source gives: a known shape and a stream of float32 rows with their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy.typing as npt

from ..arrays import TableShape
from ..method import FloatRows

KeyType = Literal["string", "int64"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `start … start + len(rows)` of a source.

    `rows` is C-contiguous float32 of shape (n, embedding_dim). `keys` is a list of str, an int64 array,
    or None; it may be shorter than `rows` in the chunk where the keyed rows end (see `RowSource.num_keys`).
    """

    start: int
    rows: FloatRows
    keys: list[str] | npt.NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class Subwords:
    """fastText's subword buckets, kept as the last rows of a table.

    An out-of-vocabulary word is the mean of the rows `first_row + h` over its character n-grams of
    `minn` to `maxn` characters of "<word>", `h` = 32-bit FNV-1a of the n-gram's UTF-8 (bytes taken as signed), modulo
    `buckets`.
    """

    minn: int
    maxn: int
    buckets: int
    first_row: int


class RowSource(Protocol):
    """A stream of embedding rows that never needs more memory than a chunk.

    Attributes
    ----------
    name : what messages call it (a file's basename, never its whole path).
    format : id of the reader, "npy" for example.
    shape : rows and dims, known when the source is open.
    dtype : dtype as stored in the source, for reports.
    key_type : "string", "int64", or None when rows have ids only.
    num_keys : how many of the first rows have keys; 0 without keys.
    subwords : fastText subword buckets kept as the last rows, or None.
    fingerprint : text that changes when the content may have (size and mtime for files); resuming relies on it.
    """

    name: str
    format: str
    shape: TableShape
    dtype: str
    key_type: KeyType | None
    num_keys: int
    subwords: Subwords | None

    @property
    def fingerprint(self) -> str: ...

    def chunks(self, max_rows: int, start: int = 0) -> Iterator[Chunk]:
        """Rows in order from `start`, at most `max_rows` at a time. May be called again for a second pass."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
