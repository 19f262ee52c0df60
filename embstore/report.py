"""What a method stores, and what compressing with it cost and lost."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import pipeline, registry
from .arrays import TableShape
from .method import nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .sources import Chunk, RowSource
    from .table import Table

# Formats whose later rows can only be reached through the earlier ones.
SEQUENTIAL: Final = frozenset({"word2vec-text", "word2vec-binary", "glove", "npz", "parquet", "arrow"})

_RUN: Final = 512


def sampled_error(source: RowSource, table: Table, max_rows: int = 8192) -> tuple[float | None, int]:
    """Relative squared error of `table` against `source`, over a sample of rows.

    ``sum((decoded - original)²) / sum(original²)``, in float64, over runs of rows spread evenly over the source (over
    its first 131,072 rows where reaching later ones means reading all before). Rows with NaN or inf are left out.

    Returns
    -------
    (error, rows compared); the error is None when nothing could be compared, all rows being zero for example.
    """
    lost = total = 0.0
    compared = 0
    for chunk in _runs(source, max(1, max_rows // _RUN)):
        ids = np.arange(chunk.start, chunk.start + len(chunk.rows))
        finite = np.isfinite(chunk.rows).all(axis=1)
        original = chunk.rows[finite].astype(np.float64)
        decoded = table.lookup(ids[finite]).astype(np.float64)
        lost += float(np.square(decoded - original).sum())
        total += float(np.square(original).sum())
        compared += len(original)
    return (lost / total if total else None), compared


def _runs(source: RowSource, count: int) -> Iterator[Chunk]:
    rows = source.shape.num_embeddings
    if source.format in SEQUENTIAL:
        last = -(-min(rows, 131_072) // _RUN) - 1
        wanted = set(np.linspace(0, last, count).astype(np.int64).tolist())
        for i, chunk in enumerate(source.chunks(_RUN)):
            if i in wanted:
                yield chunk
            if i >= last:
                return
        return
    for start in np.unique(np.linspace(0, max(rows - _RUN, 0), count).astype(np.int64)).tolist():
        for chunk in source.chunks(_RUN, start):
            yield chunk
            break


def describe_method(method_id: str, dim: int, rows: int = 1_000_000) -> dict[str, Any]:
    """What a method stores and may be told, JSON-able: its arrays, bytes per row for `rows` of `dim`, config fields."""
    cls = registry.get(method_id)
    shape = TableShape(rows, dim)
    method = pipeline.create(method_id).resolve(shape)
    layout = method.layout(shape)
    stored = nbytes(method, shape)
    doc = (cls.__doc__ or "").strip().partition("\n\n")[0]
    return {
        "id": method_id,
        "version": cls.version,
        "summary": " ".join(doc.split()),
        "bytes_per_row": stored / rows,
        "ratio": shape.nbytes_float32 / stored,
        "arrays": [
            {"name": s.name, "dtype": s.dtype, "row_shape": list(s.shape[1:]), "partition": s.partition} for s in layout
        ],
        "fields": [
            {"name": f.name, "type": str(f.type), "default": f.default}
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        ],
    }
