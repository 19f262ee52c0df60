"""What every source gives: a known shape and a stream of float32 rows with their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
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

    An out-of-vocabulary word is the mean of the rows of its character n-grams, those of `minn` to `maxn` characters
    of "<word>". The bucket of one is `h`, the 32-bit FNV-1a of its UTF-8 (bytes taken as signed), modulo `buckets`;
    its row is `first_row + h`. Of a pruned model `kept` has the buckets that are left, ascending: the row is
    `first_row + i` where `kept[i] == h`, and an n-gram without a row does not count.
    """

    minn: int
    maxn: int
    buckets: int
    first_row: int
    # Left out of comparisons, which arrays do not have.
    kept: npt.NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def rows(self) -> int:
        """Rows that the buckets take."""
        return self.buckets if self.kept is None else len(self.kept)

    def find(self, buckets: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Which buckets have a row, and the place of each among the `rows`."""
        if self.kept is None:
            return np.ones(len(buckets), bool), buckets
        places = np.searchsorted(self.kept, buckets)
        known = places < len(self.kept)
        known[known] = self.kept[places[known]] == buckets[known]
        return known, places


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
