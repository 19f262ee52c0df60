"""`embstore compare`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ._shared import AsJson, app, emit, size_text
from .search import Metric


@app.command()
def compare(
    source: Annotated[str, typer.Argument(help="File of embeddings.")],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="A method or pipeline; give it once for each.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours that recall is taken of.")] = 10,
    metric: Annotated[Metric, typer.Option(help="How rows are compared.")] = Metric.cosine,
    rows: Annotated[int, typer.Option(min=1, help="Rows drawn from the source, at most.")] = 100_000,
    queries: Annotated[int, typer.Option(min=1, help="Rows drawn as queries, at most.")] = 500,
    name: Annotated[str | None, typer.Option(help="Which tensor, array or column of the file.")] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Also draw it: .png, .svg or .pdf.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Try several methods on rows of a file: bytes, error, recall, lookup speed."""
    from .. import compare as comparing

    results = comparing.compare(
        source, tuple(method or comparing.DEFAULT), k=k, max_rows=rows, queries=queries, metric=metric.value, seed=seed,
        progress=None if not sys.stderr.isatty() else lambda text: print(f"{text} …", file=sys.stderr),
        **({} if name is None else {"name": name}),
    )  # fmt: skip
    if plot is not None:
        comparing.plot(results, plot, k)
    if as_json:
        return emit({"source": source, "k": k, "metric": metric.value, "methods": [r.asdict() for r in results]})
    best = {r.method for r in comparing.front(results)}
    width = max(len(r.method) for r in results)
    print(f"  {'method':<{width}} {'bits/value':>10} {'whole':>10} {'error':>9} {'recall@' + str(k):>10} {'x take':>7}")
    for r in results:
        if r.failure is not None:
            print(f"  {r.method:<{width}} {r.failure}")
            continue
        whole = "" if r.nbytes_whole is None else size_text(r.nbytes_whole)
        error = "" if r.error is None else f"{r.error:.2e}"
        print(
            f"{'*' if r.method in best else ' '} {r.method:<{width}} {r.bits_per_value:>10.2f} {whole:>10} {error:>9} "
            f"{r.recall:>10.3f} {r.lookup_ratio:>7.2f}"
        )
    print("\n* no other is better in both bytes and recall; x take: lookups over numpy.take of float32, in this run")
