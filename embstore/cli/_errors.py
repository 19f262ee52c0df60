"""How the command ends when something was wrong."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import NoReturn

# What a cure calls an argument of the Python functions is an option here.
_ARGUMENT = re.compile(r"""\b(name|nonfinite|on_duplicate|oov|overwrite|rerank|index|metric)=(True|"[^"]*")""")


def _option(argument: re.Match[str]) -> str:
    option = "--" + argument[1].replace("_", "-")
    return option if argument[2] == "True" else f"{option} {shlex.quote(argument[2][1:-1])}"


def fail(error: BaseException) -> NoReturn:
    """One sentence on stderr, exit code 1; the traceback too with EMBSTORE_DEBUG=1."""
    from ..errors import EmbstoreError

    if os.environ.get("EMBSTORE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EmbstoreError):
        text = _ARGUMENT.sub(_option, text)
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{os.fsdecode(error.filename)!r} could not be used ({error.strerror}); check the path and permissions"
    elif not isinstance(error, OSError):
        text = f"unexpected {type(error).__name__}: {text}; set EMBSTORE_DEBUG=1 to see where"
    print(f"embstore: {text}", file=sys.stderr)
    sys.exit(1)
