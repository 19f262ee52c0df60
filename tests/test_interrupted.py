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
from embstore import compression

ROWS, DIM = 6000, 16

# Small shards, so that a small table has many; the parent never sees these settings.
RUN = """
import json, os, signal, sys
from embstore import compress, compression
from embstore.format import layout

layout.CHUNK_BYTES, layout.SHARD_BYTES, layout.MIN_CHUNK_BYTES = 2048, 8192, 1
compression.CHUNK_BYTES = 256 * 64
source, path, stop, config = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
if least := config.pop("encoded_from", 0):  # encoding an earlier row would fail
    from embstore import kernels
    plain = kernels.encoder
    def encoder(*args, **options):
        encode = plain(*args, **options)
        return lambda shared, ids, rows: encode(shared, ids, rows) if ids[0] >= least else os._exit(9)
    kernels.encoder = encoder
if config.pop("fitted", False):
    compression.SourceRows = None  # so that fitting would fail

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


# What each stores: shared arrays alone, ragged ones, rows; a pipeline; arrays that only encoding needs.
FITTED: list[dict[str, Any]] = [
    {"method": "tt"}, {"method": "dedup", "block_rows": 3}, {"method": "dedup"}, {"method": "mgqe"}, {"method": "pq"},
    {"method": "mixed_dim", "counts": "counts.npy"}, {"method": "pca8,svd4"}, {"method": "pruned"},
]  # fmt: skip


@pytest.mark.parametrize("config", FITTED, ids=lambda c: c["method"])
def test_what_was_fitted_is_used_again(tmp_path: Path, source: Path, config: dict[str, Any]) -> None:
    if "counts" in config:
        np.save(tmp_path / "counts.npy", np.arange(ROWS))
        config = {**config, "counts": str(tmp_path / "counts.npy")}
    assert run(source, tmp_path / "whole", **config) == 0
    assert run(source, tmp_path / "t", 1, **config) == -signal.SIGKILL
    assert run(source, tmp_path / "t", 1, fitted=True, **config) == -signal.SIGKILL
    assert run(source, tmp_path / "t", fitted=True, **config) == 0
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert embstore.open(tmp_path / "t").verify() == []


@pytest.mark.parametrize("config", [{"method": "mgqe"}, {"method": "mgqe", "hot": 0}, {"method": "mixed_dim"}], ids=str)
def test_tables_of_ragged_arrays_alone_go_on_where_they_were(
    tmp_path: Path, source: Path, config: dict[str, Any]
) -> None:
    np.save(tmp_path / "counts.npy", np.random.default_rng(1).permutation(ROWS))
    config = {**config, "counts": str(tmp_path / "counts.npy")}
    assert run(source, tmp_path / "whole", **config) == 0
    assert not any(s.partition == "rows" for s in embstore.open(tmp_path / "whole")._stored.specs)
    assert run(source, tmp_path / "t", 4000, **config) == -signal.SIGKILL
    # What is behind the last part that was marked is encoded again and must not be there twice.
    for array in ("cold_codes", "values_1"):
        for file in (tmp_path / ".t.embstore-partial" / array).rglob("0"):
            if file.is_file():
                with file.open("ab") as stream:
                    stream.write(b"more than was marked")
    assert run(source, tmp_path / "t", encoded_from=1024, fitted=True, **config) == 0
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert embstore.open(tmp_path / "t").verify() == []
    assert run(source, tmp_path / "u", encoded_from=1024, **config) == 9


@pytest.mark.parametrize("file", ["core0/c/0/0/0/0", "fitted.embstore/index"])
def test_what_was_fitted_and_is_damaged_is_fitted_again(tmp_path: Path, source: Path, file: str) -> None:
    assert run(source, tmp_path / "whole", method="tt") == 0
    assert run(source, tmp_path / "t", 1, method="tt") == -signal.SIGKILL
    damaged = tmp_path / ".t.embstore-partial" / file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert run(source, tmp_path / "t", 1, fitted=True, method="tt") == 1
    assert run(source, tmp_path / "t", method="tt") == 0
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_interrupted_while_fitting_says_that_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression.SourceRows, "blocks", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        embstore.compress(np.ones((100, 8), np.float32), tmp_path / "t", "tt")
    (note,) = caught.value.__notes__
    assert note.startswith("nothing of 't' is kept") and note.endswith("it starts over")
    assert os.listdir(tmp_path) == []


def test_interrupted_after_fitting_says_what_is_kept(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    for method, kept in (("tt", "what was fitted of 't'"), ("int8", "the first 100 of 100 rows of 't'")):
        with pytest.raises(KeyboardInterrupt) as caught, pytest.MonkeyPatch.context() as patch:
            patch.setattr(compression.TableWriter, "finish", interrupt)
            embstore.compress(rows, tmp_path / "t", method)
        assert caught.value.__notes__ == [f"{kept} will be used when the same is run again"]
        assert os.listdir(tmp_path) == [".t.embstore-partial"]


def test_the_command_line_says_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from embstore import cli

    np.save(tmp_path / "rows.npy", np.ones((100, 8), np.float32))
    command = ["embstore", "compress", str(tmp_path / "rows.npy"), str(tmp_path / "t"), "--method", "tt"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(compression.SourceRows, "blocks", interrupt)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert "untouched; nothing of 't' is kept, as neither fitting nor a shard was finished" in capsys.readouterr().err
