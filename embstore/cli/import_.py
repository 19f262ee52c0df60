"""`embstore import`."""

from __future__ import annotations

from typing import Annotated

import typer

from ._shared import AsJson, Overwrite, app, config_text, emit, print_fields, size_text


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="INDEX", help="File that faiss.write_index wrote.", show_default=False)
    ],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Directory the table becomes.", show_default=False)],
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text file of the keys, one a line, in row order.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a table of the codes of a FAISS index, as they are. Open files only from where you would run code from."""
    from ..exchange import from_faiss
    from ..pipeline import Pipeline

    table = from_faiss(source, dest, keys=keys, overwrite=overwrite)
    config = table.method.config()
    if as_json:
        done = {"path": dest, "method": table.method.id, "config": config}
        done["transforms"] = [transform.id for transform in table.transforms]
        shape = {"num_embeddings": table.num_embeddings, "embedding_dim": table.embedding_dim}
        return emit({**done, **shape, "nbytes": table.nbytes, "keys": None if table.keys is None else len(table.keys)})
    spelled = str(Pipeline(table.transforms, table.method))
    print_fields(
        [
            ("table", dest),
            ("method", f"{spelled} ({config_text(config)})"),
            ("rows x dims", f"{table.num_embeddings:,} x {table.embedding_dim}"),
            ("compressed", f"{size_text(table.nbytes)} ({table.nbytes / table.num_embeddings:.1f} bytes per row)"),
        ]
    )
