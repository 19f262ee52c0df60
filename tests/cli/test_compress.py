"""Compressing from the command line: what is printed where, exit codes, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runs import DIM, ROWS, WORDS, Run, refused

import embstore


def test_compress_reports_what_it_did(run: Run, npy: Path, words: Path, tmp_path: Path, vectors: np.ndarray) -> None:
    dest = tmp_path / "out.emb"
    done = run("compress", npy, dest, "--method", "int8", "--set", "block_size=4", "--keys", words, "--json")
    assert (done.code, done.err) == (0, "")
    opened = embstore.open(dest)
    decoded = opened.lookup(np.arange(ROWS)).astype(np.float64)
    error = np.square(decoded - vectors).sum() / np.square(vectors.astype(np.float64)).sum()
    report = done.json
    assert report["method"] == "int8" and report["config"]["block_size"] == 4
    assert (report["num_embeddings"], report["embedding_dim"]) == (ROWS, DIM)
    assert report["nbytes"] == opened.nbytes
    assert report["ratio"] == pytest.approx(4 * ROWS * DIM / opened.nbytes)
    assert report["rows_compared"] == ROWS
    assert report["relative_squared_error"] == pytest.approx(error) and 0 < error < 1e-3
    assert list(opened.keys) == WORDS


def test_compress_prints_for_people(run: Run, npy: Path, tmp_path: Path) -> None:
    done = run("compress", npy, tmp_path / "out.emb", "-m", "int4")
    assert done.code == 0 and done.err == ""
    for part in ("int4", "50 x 9", "1.80 kB", "smaller", "relative squared error", "50 sampled rows"):
        assert part in done.out


def test_compress_refuses_what_exists(run: Run, npy: Path, table: Path) -> None:
    before = {p: p.read_bytes() for p in table.rglob("*") if p.is_file()}
    refused(run("compress", npy, table), "t.emb", "exists")
    assert {p: p.read_bytes() for p in table.rglob("*") if p.is_file()} == before
    assert run("compress", npy, table, "--overwrite", "-m", "int8").code == 0
    assert embstore.open(table).num_embeddings == ROWS


def test_compress_names_bad_rows(run: Run, tmp_path: Path, vectors: np.ndarray) -> None:
    vectors[7, 3] = np.nan
    np.save(tmp_path / "nan.npy", vectors)
    dest = tmp_path / "out.emb"
    refused(run("compress", tmp_path / "nan.npy", dest), "row 7")
    assert not dest.exists()
    kept = run("compress", tmp_path / "nan.npy", dest, "-m", "float32", "--nonfinite", "keep", "--json")
    assert kept.code == 0
    assert (kept.json["rows_compared"], kept.json["relative_squared_error"]) == (ROWS - 1, 0.0)


def test_compress_lets_the_last_duplicate_win_when_asked(run: Run, npy: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("same\n" * 2 + "".join(f"{w}\n" for w in WORDS[2:]), encoding="utf-8")
    refused(run("compress", npy, tmp_path / "a.emb", "--keys", keys), "same")
    done = run("compress", npy, tmp_path / "a.emb", "-m", "float32", "--keys", keys, "--on-duplicate", "last")
    assert done.code == 0
    assert embstore.open(tmp_path / "a.emb").keys.id("same") == 1


def test_compress_reads_raw_values(run: Run, tmp_path: Path, vectors: np.ndarray) -> None:
    (tmp_path / "v.raw").write_bytes(vectors.astype("<f4").tobytes())
    raw = ("--format", "raw", "--dtype", "float32", "--shape", f"{ROWS}x{DIM}")
    assert run("compress", tmp_path / "v.raw", tmp_path / "out.emb", "-m", "float32", *raw).code == 0
    np.testing.assert_array_equal(embstore.open(tmp_path / "out.emb").lookup(np.arange(ROWS)), vectors)


def test_compress_passes_the_budget_on(run: Run, npy: Path, tmp_path: Path) -> None:
    refused(run("compress", npy, tmp_path / "out.emb", "-m", "int8", "--budget", "1bpd"), "int8")
    assert not (tmp_path / "out.emb").exists()
    assert run("compress", npy, tmp_path / "out.emb", "-m", "int8", "--budget", "60%").code == 0


@pytest.mark.parametrize(
    "args",
    [
        ("--set", "block_size"),
        ("--set", "=4"),
        ("--set", "block_size=4", "--set", "block_size=8"),
        ("--set", "seed=4"),
        ("--shape", "50"),
        ("--shape", "axb"),
        ("--nonfinite", "drop"),
        ("--no-such-option",),
    ],
)
def test_arguments_that_make_no_sense_exit_with_2(run: Run, npy: Path, tmp_path: Path, args: tuple[str, ...]) -> None:
    refused(run("compress", npy, tmp_path / "out.emb", *args), args[0].lstrip("-").split("=")[0], code=2)
    assert not (tmp_path / "out.emb").exists()


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("--method", "int9"), "int9"),
        (("--set", "blok_size=4"), "blok_size"),
        (("--format", "nope"), "nope"),
        (("--keys", "absent.txt"), "absent.txt"),
    ],
)
def test_bad_values_exit_with_1(run: Run, npy: Path, tmp_path: Path, args: tuple[str, ...], part: str) -> None:
    refused(run("compress", npy, tmp_path / "out.emb", *args), part)
    assert not (tmp_path / "out.emb").exists()


def test_a_missing_source_is_named(run: Run, tmp_path: Path) -> None:
    refused(run("compress", tmp_path / "absent.npy", tmp_path / "out.emb"), "absent.npy")


def test_compress_says_that_rows_are_fewer_than_centroids(run: Run, npy: Path, tmp_path: Path) -> None:
    done = run("compress", npy, tmp_path / "t", "--method", "pq", "--json")
    assert done.code == 0 and done.json["method"] == "pq"
    assert done.err.startswith("embstore: pq learns 256 centroids") and done.err.count("\n") == 1
