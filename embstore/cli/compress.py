"""`embstore compress`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ._shared import (
    AsJson,
    Overwrite,
    app,
    assignments,
    config_text,
    emit,
    parse_shape,
    print_fields,
    progress_bar,
    size_text,
)


class NonFinite(StrEnum):
    """What to do with NaN and inf in a source."""

    refuse = "raise"
    keep = "keep"


class OnDuplicate(StrEnum):
    """What to do with a key at two rows."""

    refuse = "raise"
    last = "last"


@app.command()
def compress(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="File to read the rows from.", show_default=False)],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Directory the table becomes.", show_default=False)],
    method: Annotated[str, typer.Option("--method", "-m", help="How to compress; see `embstore methods`.")] = "int8",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the method, see `embstore methods`; repeatable."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Size not to exceed: 0.1 or 10% of float32, 4bpd, 64MB, or bytes.", show_default=False),
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text file of the keys, one a line, in row order.")
    ] = None,
    counts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="How often each row is used: a .npy file, or a column of the source."),
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the keys, in parquet or Arrow.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TENSOR", help="Tensor, array or column of the rows.")] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="Read the source as npy, glove, …; by default its content tells.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of a raw source, float32 for example.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="ROWSxDIMS", help="Shape of a raw source.")] = None,
    overwrite: Overwrite = False,
    nonfinite: Annotated[
        NonFinite, typer.Option(help="Refuse NaN and inf in the source, or keep them.")
    ] = NonFinite.refuse,
    on_duplicate: Annotated[
        OnDuplicate, typer.Option(help="Refuse a key at two rows, or let the last row win.")
    ] = OnDuplicate.refuse,
    seed: Annotated[int, typer.Option(help="Seed of the methods that draw samples.")] = 0,
    rerank: Annotated[
        str | None, typer.Option(metavar="METHOD", help="A second, finer method, kept for `search --rerank second`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compress a file of embeddings into a table."""
    config = assignments(set_ or [])
    reading: dict[str, Any] = {
        "format": format,
        "name": name,
        "key_column": key_column,
        "dtype": dtype,
        "shape": parse_shape(shape),
    }
    import inspect as signatures

    from .. import compress as run
    from ..report import sampled_error
    from ..sources import open_source

    for field in sorted(set(config) & set(signatures.signature(run).parameters)):
        raise typer.BadParameter(f"--set gives config fields of the method, found {field!r}; see --{field}")
    with progress_bar("compressing", as_json) as progress:
        table = run(
            source,
            dest,
            method,
            budget=budget,
            keys=keys,
            counts=counts,
            overwrite=overwrite,
            nonfinite=nonfinite.value,
            on_duplicate=on_duplicate.value,
            seed=seed,
            rerank=rerank,
            progress=progress,
            **reading,
            **config,
        )
    with open_source(source, **reading) as rows:
        error, compared = sampled_error(rows, table)
    before = 4 * table.num_embeddings * table.embedding_dim
    done = {
        "path": dest,
        "method": table.method.id,
        "config": table.method.config(),
        "num_embeddings": table.num_embeddings,
        "embedding_dim": table.embedding_dim,
        "nbytes_float32": before,
        "nbytes": table.nbytes,
        "rerank_nbytes": table.rerank_nbytes,
        "bytes_per_row": table.nbytes / max(1, table.num_embeddings),
        "ratio": before / max(1, table.nbytes),
        "relative_squared_error": error,
        "rows_compared": compared,
    }
    if as_json:
        return emit(done)
    shown = "not measured" if error is None else f"{error:.2e} over {compared:,} sampled rows"
    print_fields(
        [
            ("table", dest),
            ("method", f"{done['method']} ({config_text(table.method.config())})"),
            ("rows x dims", f"{table.num_embeddings:,} x {table.embedding_dim}"),
            ("float32", size_text(before)),
            ("compressed", f"{size_text(table.nbytes)} ({done['bytes_per_row']:.1f} bytes per row)"),
            *([] if table.reranker is None else [("rerank", f"{size_text(table.rerank_nbytes)} more by {rerank}")]),
            ("ratio", f"{done['ratio']:.2f} x smaller"),
            ("relative squared error", shown),
        ]
    )
