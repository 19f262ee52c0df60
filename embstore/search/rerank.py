"""Where the second pass of a search takes rows from: the table itself, a finer table, or the original vectors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import TableShape
from ..errors import ConfigError, ShapeError
from ..method import FloatRows, Ids

if TYPE_CHECKING:
    from ..sources.base import RowSource
    from ..table import Table

# Ids, ascending and each once, to float32 rows.
Rows = Callable[[Ids], FloatRows]

_PASS_ROWS = 1 << 14


def rows_of(table: Table, rerank: Any) -> Rows:
    """The rows that `rerank` of `Table.search` names; `ShapeError` if they are not as many, or of another width."""
    from ..table import Table

    if rerank is None or rerank is False:
        return table.lookup
    if rerank is True:
        if table.reranker is None:
            raise ConfigError(
                'rerank=True needs a table with a second method, found one without; compress it with rerank="int8"'
            )
        return table.reranker.lookup
    if isinstance(rerank, (str, os.PathLike)):
        rerank = _open(rerank)
    if isinstance(rerank, Table):
        _check(table, (rerank.num_embeddings, rerank.embedding_dim))
        return rerank.lookup
    if isinstance(rerank, np.ndarray):
        _check(table, rerank.shape)
        return lambda ids: np.ascontiguousarray(rerank[ids], np.float32)
    if hasattr(rerank, "chunks") and isinstance(getattr(rerank, "shape", None), TableShape):
        _check(table, (rerank.shape.num_embeddings, rerank.shape.embedding_dim))
        return lambda ids: _pass(rerank, ids)
    raise ConfigError(
        f"rerank must be True, a table, an array, a source or a path, found {type(rerank).__name__}; pass one of these"
    )


def _open(path: str | os.PathLike[str]) -> Any:
    """A table, a mapped .npy file, or any other source of rows."""
    from ..format.staging import is_table
    from ..sources import open_source
    from ..table import open as open_table

    path = os.fspath(path)
    if is_table(path):
        return open_table(path)
    return np.load(path, mmap_mode="r") if path.endswith(".npy") and os.path.exists(path) else open_source(path)


def _check(table: Table, shape: tuple[int, ...]) -> None:
    want = (table.num_embeddings, table.embedding_dim)
    if shape != want:
        raise ShapeError(f"rerank must have the rows of the table, shape {want}, found {shape}; pass all of its rows")


def _pass(source: RowSource, ids: Ids) -> FloatRows:
    """Rows of a source that only streams: one pass, up to the last row wanted."""
    out = np.empty((len(ids), source.shape.embedding_dim), np.float32)
    done = 0
    for chunk in source.chunks(_PASS_ROWS, int(ids[0]) if len(ids) else 0):
        end = int(np.searchsorted(ids, chunk.start + len(chunk.rows)))
        out[done:end] = chunk.rows[ids[done:end] - chunk.start]
        done = end
        if done == len(ids):
            break
    return out
