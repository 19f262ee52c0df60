"""`embstore lookup`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ._shared import AsJson, TablePath, app, emit, parse_integer


@app.command()
def lookup(
    table: TablePath,
    items: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys, or row ids of a table without keys.")],
    ids: Annotated[
        bool, typer.Option("--ids", help="Take the arguments as row ids, though the table has keys.")
    ] = False,
    oov: Annotated[
        str, typer.Option(metavar="POLICY", help="Unknown keys give: raise, zeros, ngrams, subwords, or a row id.")
    ] = "raise",
    as_json: AsJson = False,
) -> None:
    """Print the vectors of keys or ids, one a line."""
    from ..method import Keyed
    from ..table import open as open_table

    opened = open_table(table)
    found = [True] * len(items)
    if not ids and opened.keys is None and isinstance(opened.method, Keyed):
        vectors = opened.lookup(items)
    elif ids or opened.keys is None:
        rows = [parse_integer(item, "a row id") if ids else _row_of_keyless(item) for item in items]
        vectors = opened.lookup(rows, by="id")
    else:
        wanted: list[Any] = list(items) if opened.keys.type == "string" else [parse_integer(i, "a key") for i in items]
        policy: str | int = int(oov) if oov.isdecimal() else oov
        vectors, mask = opened.lookup(wanted, by="key", oov=policy, return_mask=True)
        found = mask.tolist()
    if as_json:
        pairs = zip(items, found, vectors.tolist(), strict=True)
        return emit({"path": table, "rows": [{"key": k, "found": f, "vector": v} for k, f, v in pairs]})
    for item, row in zip(items, vectors.tolist(), strict=True):
        print(item, *(f"{value:.6g}" for value in row))


def _row_of_keyless(item: str) -> int:
    try:
        return int(item)
    except ValueError:
        from ..errors import NoKeysError

        raise NoKeysError(f"the table has no keys, found the key {item!r}; look rows up by their ids") from None
