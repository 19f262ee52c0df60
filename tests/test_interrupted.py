"""A compress that is killed leaves nothing at the destination, and the same call finishes the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore

ROWS, DIM = 6000, 16

# Small shards, so that a small table has many; the parent never sees these settings.
RUN = """
import json, os, signal, sys
from embstore import compress, compression
from embstore.format import layout

layout.CHUNK_BYTES, layout.SHARD_BYTES, layout.MIN_CHUNK_BYTES = 2048, 8192, 1
compression.CHUNK_BYTES = 256 * 64
source, path, stop, config = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])

def progress(done, total):
    if done >= stop:
        os.kill(os.getpid(), signal.SIGKILL)

compress(source, path, progress=progress, **config)
"""


def run(source: Path, path: Path, stop: int = 2**62, **config: Any) -> int:
    args = [sys.executable, "-c", RUN, str(source), str(path), str(stop), json.dumps(config)]
    return subprocess.run(args, timeout=120).returncode


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A word2vec text file: the keys are its words."""
    rows = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    lines = [f"{ROWS} {DIM}"]
    lines += [f"wörd{i} " + " ".join(f"{value:.4f}" for value in row) for i, row in enumerate(rows)]
    path = tmp_path / "words.vec"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("stop", [1, 4000, ROWS])
def test_killed_and_run_again(tmp_path: Path, source: Path, stop: int) -> None:
    assert run(source, tmp_path / "whole") == 0
    assert run(source, tmp_path / "t", stop) == -signal.SIGKILL
    assert not (tmp_path / "t").exists()
    first = tmp_path / ".t.embstore-partial" / "codes" / "c" / "0" / "0"
    before = first.stat() if stop > 1 else None
    assert run(source, tmp_path / "t") == 0
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["t", "whole", "words.vec"]
    table = embstore.open(tmp_path / "t")
    assert table.verify() == []
    assert table.keys is not None and table.keys.id(f"wörd{ROWS - 1}") == ROWS - 1
    if before is not None:  # the shards of the killed run were kept
        after = (tmp_path / "t" / "codes" / "c" / "0" / "0").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("other", [{"method": "int4"}, {"symmetric": True}, {"on_duplicate": "last"}, {"seed": 1}])
def test_other_arguments_start_over(tmp_path: Path, source: Path, other: dict[str, Any]) -> None:
    assert run(source, tmp_path / "whole", **other) == 0
    assert run(source, tmp_path / "t", 4000) == -signal.SIGKILL
    before = (tmp_path / ".t.embstore-partial" / "codes" / "c" / "0" / "0").stat().st_mtime_ns
    assert run(source, tmp_path / "t", **other) == 0
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert (tmp_path / "t" / "codes" / "c" / "0" / "0").stat().st_mtime_ns != before
    assert sorted(os.listdir(tmp_path)) == ["t", "whole", "words.vec"]


def test_a_source_that_changed_starts_over(tmp_path: Path, source: Path) -> None:
    assert run(source, tmp_path / "t", 4000) == -signal.SIGKILL
    source.write_text(source.read_text().replace("wörd0 ", "wörd_0 "))
    assert run(source, tmp_path / "t") == 0
    assert run(source, tmp_path / "whole") == 0
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert "wörd_0" in embstore.open(tmp_path / "t")


def test_without_keys_after_a_run_with_keys(tmp_path: Path, source: Path) -> None:
    assert run(source, tmp_path / "t", 4000) == -signal.SIGKILL
    assert run(source, tmp_path / "t", keys=False) == 0
    assert run(source, tmp_path / "whole", keys=False) == 0
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert embstore.open(tmp_path / "t").keys is None
    assert not (tmp_path / "t" / "keys").exists()


def test_overwriting_keeps_the_old_table_while_killed(tmp_path: Path, source: Path) -> None:
    assert run(source, tmp_path / "t") == 0
    old = tree(tmp_path / "t")
    assert run(source, tmp_path / "t", 4000, method="int4", overwrite=True) == -signal.SIGKILL
    assert tree(tmp_path / "t") == old
    assert run(source, tmp_path / "t", method="int4", overwrite=True) == 0
    assert embstore.open(tmp_path / "t").method.id == "int4"
    assert sorted(os.listdir(tmp_path)) == ["t", "words.vec"]
