"""`embstore export`."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from ._shared import AsJson, Overwrite, TablePath, app, emit, progress_bar, size_text


class FaissMetric(StrEnum):
    """What a FAISS index of codes searches by."""

    l2 = "l2"
    ip = "ip"


@app.command()
def export(
    table: TablePath,
    dest: Annotated[
        str,
        typer.Argument(
            metavar="DEST", help="A file ending in .npy, .safetensors, .txt, .vec, .bin, .parquet or .faiss."
        ),
    ],
    format: Annotated[
        str | None, typer.Option("--format", help="npy, safetensors, word2vec, word2vec-binary, parquet, faiss.")
    ] = None,
    keys: Annotated[str | None, typer.Option(metavar="FILE", help="Also write the keys here, one a line.")] = None,
    name: Annotated[str, typer.Option(help="Name of the tensor or column.")] = "embeddings",
    metric: Annotated[FaissMetric, typer.Option(help="What a FAISS index searches by.")] = FaissMetric.l2,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Decode a table into a file other programs read; a FAISS index takes its codes as they are."""
    from ..export import export as run
    from ..table import open as open_table

    opened = open_table(table)
    with progress_bar("exporting", as_json) as progress:
        done = run(
            opened,
            dest,
            format=format,
            name=name,
            keys_path=keys,
            metric=metric.value,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        document = {"path": done.path, "format": done.format, "num_embeddings": done.rows, "embedding_dim": done.dims}
        return emit({**document, "keys": done.keys, "nbytes": done.nbytes, "keys_path": keys})
    print(f"{done.path}: {done.rows:,} x {done.dims} as {done.format}, {size_text(done.nbytes)}")
    if opened.keys is not None and done.keys == 0 and keys is None:
        print(f"embstore: {done.format} holds no keys; write them beside with --keys FILE", file=sys.stderr)
