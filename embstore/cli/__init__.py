"""The `embstore` command: argument parsing and printing, nothing else.

Results go to stdout (with ``--json`` one JSON document and nothing else), progress and errors to stderr. Exit codes:
0 when the job was done, 1 when it was not (one sentence says why), 2 for arguments that make no sense.
"""

from __future__ import annotations

import sys

# Importing a command registers it.
from . import compare, compress, export, import_, index, inspect, lookup, methods, search, verify  # noqa: F401
from ._errors import fail
from ._shared import app


def main() -> None:
    """Entry point of the `embstore` command."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130:  # how typer ends on Ctrl-C, in silence
            print("embstore: interrupted; what was at the destination is untouched", file=sys.stderr)
        raise
    except Exception as error:
        fail(error)
