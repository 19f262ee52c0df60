"""`embstore inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._shared import AsJson, TablePath, app, config_text, emit, open_any, print_fields, size_text

if TYPE_CHECKING:
    from ..table import Table


@app.command()
def inspect(table: TablePath, as_json: AsJson = False) -> None:
    """Show what a table, or each table of a set, is made of; reads metadata only."""
    opened = open_any(table)
    if isinstance(opened, Mapping):
        return _inspect_set(table, opened, as_json)
    rows, dims = opened.num_embeddings, opened.embedding_dim
    # Of the metadata, not of the layout: the rows decided some of the sizes.
    arrays = opened.metadata["generations"][0]["arrays"]
    finer = opened.reranker
    stored, subwords = opened.metadata["keys"], opened.subwords
    keys = None if stored is None else {"type": stored["type"], "count": stored["count"]}
    done = {
        "path": table,
        "method": opened.method.id,
        "config": opened.method.config(),
        "transforms": [{"id": t.id, "config": t.config()} for t in opened.transforms],
        "num_embeddings": rows,
        "embedding_dim": dims,
        "nbytes": opened.nbytes,
        "nbytes_float32": 4 * rows * dims,
        "rerank": None if finer is None else {"method": finer.method.id, "nbytes": finer.nbytes},
        "keys": keys,
        "subword_rows": 0 if subwords is None else subwords.rows,
        "arrays": arrays,
        "kernels": opened.explain(),
        "metadata": opened.metadata,
    }
    if as_json:
        return emit(done)
    print_fields(
        [
            ("table", table),
            ("method", f"{done['method']} ({config_text(opened.method.config())})"),
            *((f"after {t.id}", config_text(t.config()) or "no fields") for t in opened.transforms),
            ("rows x dims", f"{rows:,} x {dims}"),
            ("size", f"{size_text(opened.nbytes)} (float32: {size_text(4 * rows * dims)})"),
            *([] if finer is None else [("rerank", f"{finer.method.id}, {size_text(finer.nbytes)} more")]),
            ("keys", "none" if keys is None else f"{keys['count']:,} of type {keys['type']}"),
            *([] if subwords is None else [("subwords", f"the last {subwords.rows:,} rows, for unknown words")]),
            *((f"array {a['name']}", f"{a['dtype']} {a['shape']}, {a['partition']}") for a in arrays),
        ]
    )
    print(opened.explain())


def _inspect_set(path: str, tables: Mapping[str, Table], as_json: bool) -> None:
    done = [
        {
            "name": name,
            "path": table.path,
            "method": table.method.id,
            "config": table.method.config(),
            "num_embeddings": table.num_embeddings,
            "embedding_dim": table.embedding_dim,
            "nbytes": table.nbytes,
        }
        for name, table in tables.items()
    ]
    if as_json:
        return emit({"path": path, "tables": done})
    total = sum(table.nbytes for table in tables.values())
    full = sum(4 * table.num_embeddings * table.embedding_dim for table in tables.values())
    each = [
        (
            name,
            f"{t.method.id}, {t.num_embeddings:,} x {t.embedding_dim}, {size_text(t.nbytes)}"
            + ("" if t.keys is None else f", {len(t.keys):,} keys"),
        )
        for name, t in tables.items()
    ]
    size = f"{size_text(total)} (float32: {size_text(full)})"
    print_fields([("set", path), ("tables", f"{len(tables)}"), ("size", size), *each])
