"""Publishing: whole or not at all, resumed where whole shards end, never over what is not ours."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_toy import content, make, specs_for

from embstore.arrays import ArraySpec, TableShape
from embstore.errors import BusyError, ConfigError, DestinationExistsError, ShapeError, StorageError
from embstore.format import TableWriter, open_table, verify


def writer(path: Path, rows: int = 3000, **options: Any) -> TableWriter:
    return TableWriter(
        path,
        shape=TableShape(rows, 33),
        method_id="toy",
        method_version=1,
        config={"block": 33, "clip": 0.5},
        specs=specs_for(rows, 33),
        **options,
    )


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_destination_exists(tmp_path: Path) -> None:
    make(tmp_path / "t", 10)
    before = tree(tmp_path)
    with pytest.raises(DestinationExistsError, match="'t' exists"):
        make(tmp_path / "t", 10)
    assert tree(tmp_path) == before


def test_overwrite_replaces_tables_only(tmp_path: Path) -> None:
    make(tmp_path / "t", 10)
    old = open_table(tmp_path / "t")
    data = make(tmp_path / "t", 20, seed=1, overwrite=True)
    np.testing.assert_array_equal(open_table(tmp_path / "t").shards[0]["codes"], data["codes"])
    assert os.listdir(tmp_path) == ["t"]
    # A reader keeps its snapshot.
    np.testing.assert_array_equal(old.shards[0]["codes"], content(10, 33)["codes"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for name in ("mine", "mine/thesis.txt"):
        with pytest.raises(DestinationExistsError, match="not an embstore table"):
            make(tmp_path / name, 10, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_failed_rewrite_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "t", 10)
    before = tree(tmp_path)
    monkeypatch.setattr("embstore.format.staging._rename", lambda *a: (_ for _ in ()).throw(OSError(errno.EIO, "io")))
    with pytest.raises(StorageError):
        make(tmp_path / "t", 20, overwrite=True)
    assert tree(tmp_path) == before


def test_without_renameat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embstore.format.staging._rename", lambda *a: False)
    make(tmp_path / "t", 10)
    data = make(tmp_path / "t", 20, seed=1, overwrite=True)
    np.testing.assert_array_equal(open_table(tmp_path / "t").shards[0]["codes"], data["codes"])
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("after", [0, 1, 5, 9, 20])
def test_full_disk(tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    from embstore.format import staging

    real, calls = staging.write_all, iter(range(10**6))

    def write(stream: Any, data: Any) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(stream, data)

    monkeypatch.setattr("embstore.format.staging.write_all", write)
    monkeypatch.setattr("embstore.format.writer.write_all", write)
    with pytest.raises(StorageError, match=r"t' could not be written \(No space left on device\).*free some space"):
        make(tmp_path / "t", job="j")
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    make(tmp_path / "t", job="j")
    assert os.listdir(tmp_path) == ["t"]


def test_missing_parent(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        make(tmp_path / "no" / "t", 10)
    assert os.listdir(tmp_path) == []


def test_two_writers(tmp_path: Path) -> None:
    with writer(tmp_path / "t") as first:
        with pytest.raises(BusyError, match="another process"):
            writer(tmp_path / "t")
        first.abort()
    assert os.listdir(tmp_path) == []


def part(path: Path, rows: int, stop: int, **options: Any) -> None:
    """Write up to row `stop`, then leave as Ctrl-C does."""
    data = content(rows, 33)
    with pytest.raises(KeyboardInterrupt), writer(path, rows, **options) as w:
        w.write_shared({"book": data["book"]})
        w.append({n: data[n][w.resume_row : stop] for n in ("codes", "affine", "scalar")})
        raise KeyboardInterrupt


def test_resume(tmp_path: Path, small_blocks: None) -> None:
    make(tmp_path / "whole", 3000, job="j")
    part(tmp_path / "t", 3000, 1300, job="j")
    assert not (tmp_path / "t").exists()
    with writer(tmp_path / "t", job="j") as again:
        assert again.resume_row == 1024
        again.suspend()
    make(tmp_path / "t", 3000, job="j")
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["t", "whole"]


def test_resume_only_the_same_job(tmp_path: Path, small_blocks: None) -> None:
    part(tmp_path / "t", 3000, 1300, job="j")
    with writer(tmp_path / "t", job="k") as other:
        assert other.resume_row == 0
        other.abort()
    part(tmp_path / "t", 3000, 1300, job="j")
    data = content(3000, 33)
    with writer(tmp_path / "t", job="j") as w:
        assert w.resume_row == 1024
        w.write_shared({"book": data["book"] + 1})
        assert w.resume_row == 0
        w.abort()
    part(tmp_path / "t", 3000, 100, job="j")
    assert os.listdir(tmp_path) == []


def test_damaged_progress_starts_over_there(tmp_path: Path, small_blocks: None) -> None:
    part(tmp_path / "t", 3000, 2000, job="j")
    staging = tmp_path / ".t.embstore-partial"
    progress = staging / "progress.embstore" / "1"
    progress.write_bytes(progress.read_bytes()[:-1] + b"?")
    with writer(tmp_path / "t", job="j") as w:
        assert w.resume_row == 512
        w.suspend()
    (staging / "codes/c/0/0").write_bytes(b"")
    with writer(tmp_path / "t", job="j") as w:
        assert w.resume_row == 0
        w.abort()


def test_resume_after_kill(tmp_path: Path, small_blocks: None) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from embstore.format import layout
layout.CHUNK_BYTES, layout.SHARD_BYTES, layout.MIN_CHUNK_BYTES = 64 * 33, 512 * 33, 1
from format_toy import content
from test_writer import writer
from pathlib import Path
data = content(3000, 33)
w = writer(Path({str(tmp_path / "t")!r}), job="j")
w.write_shared({{"book": data["book"]}})
w.append({{n: data[n][:1600] for n in ("codes", "affine", "scalar")}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with writer(tmp_path / "t", job="j") as w:
        assert w.resume_row == 1536
        w.suspend()
    make(tmp_path / "t", 3000, job="j")
    make(tmp_path / "whole", 3000, job="other")
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert verify(tmp_path / "t") == []


def test_wrong_content(tmp_path: Path) -> None:
    data = content(10, 33)
    rows = {n: data[n] for n in ("codes", "affine", "scalar")}
    with pytest.raises(ShapeError, match="10 rows, found 4"), writer(tmp_path / "t", 10) as w:
        w.write_shared({"book": data["book"]})
        w.append({n: a[:4] for n, a in rows.items()})
        w.finish()
    with pytest.raises(ShapeError, match="at least 14"), writer(tmp_path / "t", 10) as w:
        w.append({n: a[:4] for n, a in rows.items()})
        w.append(rows)
    with pytest.raises(ShapeError), writer(tmp_path / "t", 10) as w:
        w.finish()
    spec = ArraySpec("crc32c", "uint8", (10, 1), "rows")
    with pytest.raises(ConfigError):
        TableWriter(
            tmp_path / "t", shape=TableShape(10, 1), method_id="toy", method_version=1, config={}, specs=(spec,)
        )
    assert os.listdir(tmp_path) == []
