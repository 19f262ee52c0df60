"""`embstore inspect`."""

from __future__ import annotations

from ._shared import AsJson, TablePath, app, config_text, emit, print_fields, size_text


@app.command()
def inspect(table: TablePath, as_json: AsJson = False) -> None:
    """Show what a table is made of; reads its metadata only."""
    from ..table import open as open_table

    opened = open_table(table)
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
