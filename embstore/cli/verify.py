"""`embstore verify`."""

from __future__ import annotations

import sys

import typer

from ._shared import AsJson, TablePath, app, emit, open_any


@app.command()
def verify(table: TablePath, as_json: AsJson = False) -> None:
    """Read a whole table, or set of tables, back and hold it against its checksums."""
    faults = [str(fault) for fault in open_any(table).verify()]
    if as_json:
        emit({"path": table, "ok": not faults, "faults": faults})
    elif not faults:
        print(f"{table}: every checksum agrees")
    for fault in faults:
        print(f"embstore: {fault}", file=sys.stderr)
    if faults:
        raise typer.Exit(1)
