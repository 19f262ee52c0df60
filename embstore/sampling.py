"""Rows of a source as `fit` sees them, and rows drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .arrays import TableShape
from .errors import SourceError
from .method import FloatRows, Ids

if TYPE_CHECKING:
    from .sources.base import Chunk, RowSource

_CHECK_VALUES = 1 << 18


def draw_ids(n: int, most: int, rng: np.random.Generator) -> Ids:
    """At most `most` of n ids, uniformly, ascending; all of them without asking `rng`."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False, shuffle=False))


def check_finite(rows: FloatRows, start: int, name: str) -> None:
    """`SourceError` naming the first NaN or infinity. `start` is the id of the first row."""
    flat = rows.reshape(-1)
    for at in range(0, flat.size, _CHECK_VALUES):
        part = flat[at : at + _CHECK_VALUES]
        # Both reductions carry NaN along, and need no temporary.
        if np.isfinite(part.max()) and np.isfinite(part.min()):
            continue
        where = at + int(np.flatnonzero(~np.isfinite(part))[0])
        row, column = divmod(where, rows.shape[1])
        raise SourceError(
            f"row {start + row}, column {column} of {name!r} must be finite, found {rows[row, column]}; "
            'mend the source or pass nonfinite="keep"'
        )


class SourceRows:
    """A source as `fit` sees it."""

    def __init__(
        self,
        source: RowSource,
        max_rows: int,
        check: Callable[[Chunk], None],
        counts: npt.NDArray[np.float64] | None,
    ) -> None:
        self._source, self._max_rows, self._check, self.counts = source, max_rows, check, counts

    @property
    def shape(self) -> TableShape:
        return self._source.shape

    def blocks(self) -> Iterator[FloatRows]:
        for chunk in self._source.chunks(self._max_rows):
            self._check(chunk)
            yield chunk.rows

    def sample(self, max_rows: int, rng: np.random.Generator) -> FloatRows:
        ids = draw_ids(self.shape.num_embeddings, max_rows, rng)
        out = np.empty((len(ids), self.shape.embedding_dim), np.float32)
        start = 0
        for block in self.blocks():
            low, high = np.searchsorted(ids, (start, start + len(block)))
            out[low:high] = block[ids[low:high] - start]
            start += len(block)
        return out


class ArrayRows:
    """Rows in memory as `fit` sees them; `asked` is the least that it was content with, None before it asked."""

    counts: npt.NDArray[np.float64] | None = None

    def __init__(self, rows: FloatRows) -> None:
        self._rows = rows
        self.shape = TableShape(*rows.shape)
        self.asked: int | None = None

    def blocks(self) -> Iterator[FloatRows]:
        yield self._rows

    def sample(self, max_rows: int, rng: np.random.Generator) -> FloatRows:
        self.asked = min(max_rows, self.asked or max_rows)
        return self._rows[draw_ids(len(self._rows), max_rows, rng)]
