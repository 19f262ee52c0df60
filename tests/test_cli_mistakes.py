"""Mistakes of a first day on the command line: one sentence each, in the command line's own words."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import cli


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 16)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    np.save(tmp_path / "cube.npy", np.ones((3, 4, 5), np.float32))
    np.savez(tmp_path / "two.npz", a=rows, b=rows)
    rows[7, 3] = np.nan
    np.save(tmp_path / "nan.npy", rows)
    (tmp_path / "dup.txt").write_text("a\nb\n" * 50)
    (tmp_path / "dir").mkdir()
    embstore.compress(tmp_path / "v.npy", tmp_path / "t.emb", keys=[f"w{i}" for i in range(100)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("compress nope.npy u.emb", "source 'nope.npy' does not exist; check the path"),
        ("compress dir u.emb", "source 'dir' is a directory without zarr.json; give a file or a Zarr store"),
        (
            "compress t.emb u.emb",
            "source 't.emb' must have embeddings to compress, found an embstore table; compress the source it was "
            "made from, or export it first",
        ),
        (
            "compress v.npy t.emb",
            "'t.emb' exists already; choose another destination or pass --overwrite to replace a table",
        ),
        (
            "compress v.npy dir --overwrite",
            "'dir' exists and is not an embstore table, so it is not overwritten; remove it or choose another",
        ),
        ("compress v.npy no/u.emb", "no' of the destination does not exist; make it first"),
        ("compress v.npy u.emb -m int9", "found 'int9'"),
        (
            "compress v.npy u.emb --set blocksize=4",
            "found the unknown field 'blocksize'; see `embstore methods`",
        ),
        (
            "compress v.npy u.emb --set scale_dtype=double",
            "scale_dtype of int8 must be 'float16' or 'float32', found 'double'; choose one",
        ),
        (
            "compress v.npy u.emb --budget lots",
            'budget must be like 0.1, "10%", "4bpd", 64000000 or "64MB", found \'lots\'; write one of these forms',
        ),
        ("search t.emb w1 --nprobe 3", "nprobe needs an index, found 3 without one; name it with --index NAME"),
        ("search t.emb w1 --rerank second", "found one without; compress it with --rerank int8"),
        (
            "compress v.npy u.emb --budget 1%",
            "method 'int8' needs at least 2,000 bytes for 100 x 16, found a budget of 64; raise it or choose a smaller "
            "method",
        ),
        ("compress v.npy u.emb --seed -1", "seed must be an integer from 0 on, found -1; leave it out for 0"),
        (
            "compress two.npz u.emb",
            "source 'two.npz' must have one 2-D array, found 2: 'a' 100x16, 'b' 100x16; pass --name a for one",
        ),
        (
            "compress two.npz u.emb --name c",
            "source 'two.npz' has no array 'c', found 'a' 100x16, 'b' 100x16; give one of these",
        ),
        (
            "compress cube.npy u.emb",
            "source 'cube.npy' must have a 2-D array, found shape (3, 4, 5); reshape it to rows x dims",
        ),
        (
            "compress nan.npy u.emb",
            "row 7, column 3 of 'nan.npy' must be finite, found nan; mend the source or pass --nonfinite keep",
        ),
        (
            "compress v.npy u.emb --keys dup.txt",
            "every key must name one row, found key 'a' at rows 0 and 2; remove one, or pass --on-duplicate last to "
            "let the last row win",
        ),
        ("compress v.npy u.emb --keys dir", "'dir' could not be used (Is a directory); check the path and permissions"),
        (
            "compress v.npy u.emb --format raw",
            "a raw source needs dtype and shape (rows, dims), found dtype None and shape None; give both",
        ),
        (
            "lookup t.emb W5",
            "key 'W5' is not among the table's 100 keys ('w5' is); check it, or choose what unknown keys give with "
            '--oov zeros, a row id, "ngrams" or "subwords"',
        ),
        ("lookup t.emb zebra --oov subwords", "--oov subwords needs a table made from a fastText model"),
        ("export t.emb v.npy", "the destination 'v.npy' exists; choose another name, or pass --overwrite"),
        ("export t.emb no/o.npy", "the directory 'no' of the destination does not exist; make it first"),
        ("inspect v.npy", "it must be a directory with zarr.json; check the path"),
    ],
)
def test_a_mistake_is_one_sentence(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, sentence: str
) -> None:
    before = sorted(os.listdir(here))
    monkeypatch.setattr(sys, "argv", ["embstore", *shlex.split(line)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capfd.readouterr()
    assert end.value.code == 1 and out == ""
    assert err.startswith("embstore: ") and err.count("\n") == 1 and "unexpected" not in err
    assert sentence in err
    assert sorted(os.listdir(here)) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is readable to root")
def test_an_unreadable_source(here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "v.npy").chmod(0)
    monkeypatch.setattr(sys, "argv", ["embstore", "compress", "v.npy", "u.emb"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "source 'v.npy' must be a readable file, found: Permission denied" in capfd.readouterr().err
