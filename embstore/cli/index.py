"""`embstore index`."""

from __future__ import annotations

from typing import Annotated

import typer

from ._shared import AsJson, Overwrite, TablePath, app, emit, print_fields, progress_bar, size_text
from .search import Metric


@app.command()
def index(
    table: TablePath,
    factory: Annotated[str, typer.Option(help="FAISS's factory string.")] = "IVF1024,PQ32",
    metric: Annotated[Metric, typer.Option(help="How rows are compared.")] = Metric.cosine,
    name: Annotated[str, typer.Option(help="Name of the index; a table may have several.")] = "default",
    seed: Annotated[int, typer.Option(help="Seed of the sample it is trained on.")] = 0,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--no-gpu", help="Train and add on the first GPU; by default if FAISS can.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Build a FAISS index of a table, kept beside it, for `search --index NAME`."""
    from ..search import build_index
    from ..table import open as open_table

    opened = open_table(table)
    with progress_bar("indexing", as_json) as progress:
        made = build_index(
            opened, factory, metric.value, name=name, seed=seed, gpu=gpu, overwrite=overwrite, progress=progress
        )
    if as_json:
        document = {"path": table, "name": name, "factory": factory, "metric": metric.value, "nbytes": made.nbytes}
        return emit({**document, "num_embeddings": opened.num_embeddings, "embedding_dim": opened.embedding_dim})
    print_fields(
        [
            ("table", table),
            ("index", f"{name} ({factory}, {metric.value})"),
            ("rows x dims", f"{opened.num_embeddings:,} x {opened.embedding_dim}"),
            ("size", size_text(made.nbytes)),
        ]
    )
