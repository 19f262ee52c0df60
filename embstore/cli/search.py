"""`embstore search`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._shared import AsJson, TablePath, app, emit, parse_integer

if TYPE_CHECKING:
    from ..table import Table


class Metric(StrEnum):
    """How rows are compared."""

    cosine = "cosine"
    ip = "ip"
    l2 = "l2"


class By(StrEnum):
    """What the queries are."""

    key = "key"
    id = "id"
    vectors = "vectors"


@app.command()
def search(
    table: TablePath,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="Keys, row ids, or .npy files of vectors.")],
    k: Annotated[int, typer.Option("-k", help="Rows to find for each query.")] = 10,
    metric: Annotated[Metric, typer.Option(help="How rows are compared.")] = Metric.cosine,
    by: Annotated[
        By | None, typer.Option(help="What the queries are; keys where the table has some, else ids.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text file of the row ids that may be found, one a line.")
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Rescore by the table's `second` method, or a table or file of the rows."),
    ] = None,
    index: Annotated[str | None, typer.Option(metavar="NAME", help="Search through this index of the table.")] = None,
    nprobe: Annotated[int | None, typer.Option(help="Lists of an IVF index to look at.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the nearest rows to each query: the query, key or id, and score, a line each."""
    from ..table import open as open_table

    opened = open_table(table)
    labels, vectors = _vectors(opened, queries, by or (By.id if opened.keys is None else By.key))
    allowed = None if filter is None else _ids(filter)
    scores, ids = opened.search(
        vectors,
        k,
        metric.value,
        filter=allowed,
        rerank=True if rerank == "second" else rerank,
        index=index,
        nprobe=nprobe,
    )
    found = [_hits(opened, *pair) for pair in zip(ids, scores, strict=True)]
    if as_json:
        asked = [{"query": label, "hits": hits} for label, hits in zip(labels, found, strict=True)]
        return emit({"path": table, "metric": metric.value, "k": k, "index": index, "queries": asked})
    for label, hits in zip(labels, found, strict=True):
        for hit in hits:
            print(label, hit["id"] if hit["key"] is None else hit["key"], f"{hit['score']:.6g}", sep="\t")


def _vectors(table: Table, queries: list[str], by: By) -> tuple[list[str], Any]:
    """A label and a vector for each query."""
    if by is By.id:
        return queries, table.lookup([parse_integer(query, "a row id") for query in queries], by="id")
    if by is By.key:
        integers = table.keys is not None and table.keys.type != "string"
        keys: list[Any] = [parse_integer(query, "a key") for query in queries] if integers else queries
        return queries, table.lookup(keys, by="key")
    import numpy as np

    labels, parts = [], []
    for file in queries:
        part = np.atleast_2d(_npy(file))
        labels += [file if len(part) == 1 else f"{file}[{i}]" for i in range(len(part))]
        parts.append(part)
    widths = {part.shape[1:] for part in parts}
    if len(widths) > 1:
        raise typer.BadParameter(f"the files of vectors must have rows of one length, found {sorted(widths)}")
    return labels, np.concatenate(parts)


def _npy(file: str) -> Any:
    import numpy as np

    try:
        return np.load(file, allow_pickle=False)
    except ValueError as error:
        raise typer.BadParameter(f"{file!r} must be an .npy file of floats, found none that can be read") from error


def _ids(file: str) -> list[int]:
    with open(file, encoding="utf-8") as lines:
        return [parse_integer(line.strip(), f"a line of {file!r}") for line in lines if line.strip()]


def _hits(table: Table, ids: Any, scores: Any) -> list[dict[str, Any]]:
    named = 0 if table.keys is None else len(table.keys)
    found = [(row, score) for row, score in zip(ids.tolist(), scores.tolist(), strict=True) if row >= 0]
    return [
        {"id": row, "key": table.keys[row] if table.keys is not None and row < named else None, "score": score}
        for row, score in found
    ]
