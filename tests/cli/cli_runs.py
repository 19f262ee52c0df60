"""What tests of the command line share: what a run printed, and how a refusal looks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

ROWS, DIM = 50, 9
WORDS = [f"wörd{i}" for i in range(ROWS)]


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


def refused(done: Done, *parts: str, code: int = 1) -> None:
    """One sentence on stderr that names `parts`; nothing on stdout."""
    assert (done.code, done.out) == (code, ""), done
    assert "Traceback" not in done.err
    if code == 1:
        assert done.err.count("\n") == 1 and done.err.startswith("embstore: "), done.err
    for part in parts:
        assert part in done.err, done.err
