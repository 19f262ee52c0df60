"""The command itself: what it imports, tracebacks, interrupts, progress."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run

import embstore
from embstore import registry
from embstore.arrays import TableShape
from embstore.compression import store


def _process(*args: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "embstore.cli", *map(str, args)], capture_output=True, text=True, check=False, **kwargs
    )


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['embstore', '--help']\n"
        "from embstore.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'pyarrow', 'zarr', 'rich', 'torch', 'numba'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("compress", "inspect", "lookup", "verify", "methods", "export", "import"):
        assert command in done.stdout


def test_version(run: Run) -> None:
    assert run("--version").out == f"embstore {embstore.__version__}\n"


def test_a_traceback_only_when_asked(tmp_path: Path) -> None:
    plain = _process("inspect", tmp_path / "absent.emb")
    assert plain.returncode == 1 and plain.stderr.count("\n") == 1 and plain.stdout == ""
    debug = _process("inspect", tmp_path / "absent.emb", env={**os.environ, "EMBSTORE_DEBUG": "1"})
    assert debug.returncode == 1 and "Traceback" in debug.stderr


def test_an_interrupt_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> tuple[str, ...]:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "names", interrupted)
    done = run("methods")
    assert (done.code, done.out) == (130, "")
    assert done.err.strip().splitlines()[-1].startswith("embstore: interrupted")


def test_progress_only_on_a_terminal(npy: Path, tmp_path: Path) -> None:
    quiet = _process("compress", npy, tmp_path / "a.emb")
    assert quiet.returncode == 0 and quiet.stderr == ""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "embstore.cli", "compress", str(npy), str(tmp_path / "b.emb"), "--overwrite"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    for extra, wanted in (([], True), (["--json"], False)):
        done = subprocess.run([*command, *extra], stdout=subprocess.PIPE, stderr=theirs, env=env, check=True)
        os.write(theirs, b"END")
        shown = b""
        while not shown.endswith(b"END"):
            shown += os.read(ours, 65536)
        assert (b"rows/s" in shown) is wanted
        assert b"rows/s" not in done.stdout
    os.close(ours)
    os.close(theirs)


def test_lookup_of_any_string(run: Run, tmp_path: Path) -> None:
    """A table of `ngram_hash` that has no rows has a vector for every word."""
    method = registry.get("ngram_hash")(projection=False)
    shape = TableShape(0, 12)
    table = store(tmp_path / "t", method.resolve(shape), shape, method.keyed([]))
    words = ["cat", "über"]
    found = run("lookup", tmp_path / "t", *words, "--json").json["rows"]
    assert [each["key"] for each in found] == words
    np.testing.assert_array_equal([each["vector"] for each in found], table.lookup(words))
