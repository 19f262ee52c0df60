"""`embstore advise`."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._shared import AsJson, app, emit, print_fields, size_text
from .search import Metric

if TYPE_CHECKING:
    from ..advice import Advice, Option

_SHOWN = 12


class Need(StrEnum):
    """What a method is chosen for within a budget."""

    error = "error"
    search = "search"
    lookup = "lookup"


@app.command()
def advise(
    source: Annotated[str, typer.Argument(help="File of embeddings.", show_default=False)],
    budget: Annotated[
        str | None,
        typer.Option(help="Least error within 10% (of float32), 4bpd, 64MB, or bytes.", show_default=False),
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Fewest bytes that lose no more: a relative squared error.", show_default=False)
    ] = None,
    min_recall: Annotated[
        float | None, typer.Option(help="Fewest bytes that reach this recall@k.", show_default=False)
    ] = None,
    need: Annotated[Need, typer.Option(help="With --budget: least error, best recall, or fast lookups.")] = Need.error,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours that recall is taken of.")] = 10,
    metric: Annotated[Metric, typer.Option(help="How rows are compared.")] = Metric.cosine,
    sample: Annotated[int | None, typer.Option(min=100, help="Rows drawn from the source.", show_default=False)] = None,
    queries: Annotated[int, typer.Option(min=1, help="Rows drawn as queries, at most.")] = 200,
    name: Annotated[str | None, typer.Option(help="Which tensor, array or column of the file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Recommend a method for a file, from trials on a sample of it, and print the command to run."""
    if [budget, max_loss, min_recall].count(None) != 2:
        raise typer.BadParameter("give one of --budget, --max-loss and --min-recall")
    from ..advice import advise as run

    found = run(
        source, budget=budget, max_loss=max_loss, min_recall=min_recall, need=need.value, k=k, metric=metric.value,
        sample=sample, queries=queries, seed=seed,
        progress=None if not sys.stderr.isatty() else lambda text: print(f"{text} …", file=sys.stderr),
        **({} if name is None else {"name": name}),
    )  # fmt: skip
    dest = os.path.splitext(os.path.basename(os.path.normpath(source)))[0] + ".emb"
    more = ([] if name is None else ["--name", name]) + ([] if seed == 0 else ["--seed", str(seed)])
    command = found.best.command(source, dest, *more)
    if as_json:
        return emit({"source": source, "k": k, "metric": metric.value, **found.asdict(), "command": command})
    _print(found, k)
    print(f"\n{command}")


def _print(found: Advice, k: int) -> None:
    rows, best = found.shape.num_embeddings, found.best
    width = max(len(_label(o)) for o in found.options[:_SHOWN])
    print(
        f"  {'method':<{width}} {'bytes':>10} {'bits/value':>10} {'error':>9} {'recall@' + str(k):>10} "
        f"{'lookup us':>9} {'compress s':>10}"
    )
    for o in found.options[:_SHOWN]:
        seconds = "" if o.compress_seconds is None else f"{o.compress_seconds:.1f}"
        mark = "*" if o is best else " " if o.sample_rows == found.sample_rows else "-"
        print(
            f"{mark} {_label(o):<{width}} {size_text(o.nbytes):>10} {o.bits_per_value:>10.2f} {o.error:>9.2e} "
            f"{o.recall:>10.3f} {o.lookup_us:>9.2f} {seconds:>10}"
        )
    left = len(found.options) - _SHOWN
    notes = [] if left <= 0 else [f"{left} more were tried and are in --json"]
    if any(o.sample_rows != found.sample_rows for o in found.options[:_SHOWN]):
        notes.append("- dropped after a smaller sample")
    if notes:
        print("  " + "; ".join(notes))
    print()
    whole = found.sample_rows == rows
    print_fields(
        [
            ("recommended", f"{_label(best)}, {size_text(best.nbytes)} of {size_text(found.shape.nbytes_float32)}"),
            ("measured on", f"all {rows:,} rows" if whole else f"{found.sample_rows:,} of {rows:,} rows; predicted"),
            ("recall of", f"{found.queries:,} queries, rows of the table, against all {rows:,} rows"),
        ]
    )


def _label(option: Option) -> str:
    fields: dict[str, Any] = option.config
    return " ".join([option.method, *(f"{n}={v}" for n, v in fields.items() if n != "codebook_dtype")])
