"""The `embstore` command: argument parsing and printing, nothing else.

Results go to stdout (with ``--json`` one JSON document and nothing else), progress and errors to stderr. Exit codes:
0 when the job was done, 1 when it was not (one sentence says why), 2 for arguments that make no sense.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ..errors import EmbstoreWarning

# Importing a command registers it.
from . import advise, compare, compress, export, import_, index, inspect, lookup, methods, search, verify  # noqa: F401
from ._errors import fail
from ._shared import app


def main() -> None:
    """Entry point of the `embstore` command."""
    with warnings.catch_warnings():
        warnings.showwarning = _show
        try:
            app()
        except SystemExit as end:
            if end.code == 130:  # how typer ends on Ctrl-C, in silence
                notes = "".join(f"; {note}" for note in _notes(end))
                print(f"embstore: interrupted; what was at the destination is untouched{notes}", file=sys.stderr)
            raise
        except Exception as error:
            fail(error)


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """A warning as the sentence it is, without the place in a program that the user did not write."""
    name = "embstore" if issubclass(category, EmbstoreWarning) else category.__name__
    print(f"{name}: {message}", file=sys.stderr)


def _notes(error: BaseException | None) -> list[str]:
    """Notes of the interrupt that an exception comes from."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return getattr(error, "__notes__", [])
