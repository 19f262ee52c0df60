"""Exporting tables: files that other programs can read, refusals, interrupts."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import DIM, ROWS, WORDS, Run, refused

import embstore
from embstore.errors import ConfigError, DestinationExistsError, StorageError
from embstore.export import export


def _read_npy(path: Path) -> tuple[None, np.ndarray]:
    return None, np.load(path)


def _read_safetensors(path: Path) -> tuple[None, np.ndarray]:
    return None, pytest.importorskip("safetensors.numpy").load_file(path)["embeddings"]


def _read_word2vec(path: Path) -> tuple[list[str], np.ndarray]:
    gensim = pytest.importorskip("gensim.models")
    found = gensim.KeyedVectors.load_word2vec_format(str(path), binary=path.suffix == ".bin")
    return found.index_to_key, found.vectors


def _read_parquet(path: Path) -> tuple[list[Any], np.ndarray]:
    import pyarrow.parquet as pq

    found = pq.read_table(path)
    keys = found.column("key").to_pylist() if "key" in found.column_names else None
    return keys, np.array(found.column("embeddings").to_pylist(), np.float32)


READERS = {
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".txt": _read_word2vec,
    ".bin": _read_word2vec,
    ".parquet": _read_parquet,
}


@pytest.mark.parametrize("suffix", READERS)
def test_other_programs_read_what_is_exported(
    run: Run, table: Path, tmp_path: Path, vectors: np.ndarray, suffix: str
) -> None:
    dest = tmp_path / f"out{suffix}"
    done = run("export", table, dest, "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.json["num_embeddings"], done.json["embedding_dim"]) == (ROWS, DIM)
    assert done.json["nbytes"] == dest.stat().st_size
    keys, rows = READERS[suffix](dest)
    assert keys is None or keys == WORDS
    np.testing.assert_array_equal(rows, vectors)


@pytest.mark.parametrize("suffix", READERS)
def test_an_exported_table_compresses_to_itself(
    run: Run, table: Path, tmp_path: Path, vectors: np.ndarray, suffix: str
) -> None:
    dest, keys = tmp_path / f"out{suffix}", tmp_path / "keys.txt"
    assert run("export", table, dest, "--keys", keys).code == 0
    again = embstore.compress(dest, tmp_path / "again.emb", "float32", keys=keys)
    np.testing.assert_array_equal(again.lookup(WORDS), vectors)


@pytest.mark.parametrize("suffix", READERS)
def test_a_table_without_keys_is_exported_by_id(
    run: Run, keyless: Path, tmp_path: Path, vectors: np.ndarray, suffix: str
) -> None:
    assert run("export", keyless, tmp_path / f"out{suffix}").code == 0
    keys, rows = READERS[suffix](tmp_path / f"out{suffix}")
    assert keys is None or keys == [str(i) for i in range(ROWS)]
    np.testing.assert_array_equal(rows, vectors)
    refused(run("export", keyless, tmp_path / "x.npy", "--keys", tmp_path / "k.txt"), "no keys")
    assert not (tmp_path / "x.npy").exists() and not (tmp_path / "k.txt").exists()


def test_export_of_integer_keys(run: Run, tmp_path: Path, vectors: np.ndarray) -> None:
    embstore.compress(vectors, tmp_path / "i.emb", "float32", keys=np.arange(ROWS, dtype=np.int64) * 3)
    assert run("export", tmp_path / "i.emb", tmp_path / "out.parquet").code == 0
    keys, _ = _read_parquet(tmp_path / "out.parquet")
    assert keys == [3 * i for i in range(ROWS)]


def test_export_refuses_what_exists(run: Run, table: Path, tmp_path: Path) -> None:
    dest, keys = tmp_path / "out.npy", tmp_path / "keys.txt"
    dest.write_bytes(b"mine")
    refused(run("export", table, dest), "out.npy", "exists")
    assert dest.read_bytes() == b"mine"
    assert run("export", table, dest, "--overwrite").code == 0
    dest.unlink()
    keys.write_bytes(b"mine")
    refused(run("export", table, dest, "--keys", keys), "keys.txt")
    assert keys.read_bytes() == b"mine" and not dest.exists()
    (tmp_path / "dir.npy").mkdir()
    refused(run("export", table, tmp_path / "dir.npy", "--overwrite"), "directory")


def test_export_refuses_an_unknown_suffix(run: Run, table: Path, tmp_path: Path) -> None:
    refused(run("export", table, tmp_path / "out.xyz"), "out.xyz")
    assert run("export", table, tmp_path / "out.xyz", "--format", "npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.xyz").shape, (ROWS, DIM))
    refused(run("export", table, tmp_path / "out.npy", "--format", "csv"), "csv")


@pytest.mark.parametrize(("key", "dest", "keys"), [("two words", "out.txt", None), ("two\nlines", "out.npy", "k.txt")])
def test_export_refuses_keys_the_format_cannot_hold(
    run: Run, tmp_path: Path, vectors: np.ndarray, key: str, dest: str, keys: str | None
) -> None:
    embstore.compress(vectors, tmp_path / "t.emb", "float32", keys=[*WORDS[:-1], key])
    more = () if keys is None else ("--keys", tmp_path / keys)
    refused(run("export", tmp_path / "t.emb", tmp_path / dest, *more), repr(key)[1:-1], f"row {ROWS - 1}")
    assert [p.name for p in tmp_path.iterdir()] == ["t.emb"]
    assert run("export", tmp_path / "t.emb", tmp_path / "out.parquet").code == 0
    assert _read_parquet(tmp_path / "out.parquet")[0][-1] == key


def test_export_mentions_keys_left_behind(run: Run, table: Path, tmp_path: Path) -> None:
    assert "--keys" in run("export", table, tmp_path / "out.npy").err
    assert run("export", table, tmp_path / "out.txt").err == ""


def test_export_reports_progress_in_blocks(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embstore.export._BLOCK_BYTES", 7 * 4 * DIM)
    seen: list[tuple[int, int]] = []
    export(embstore.open(table), tmp_path / "out.npy", progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (7, ROWS) and seen[-1] == (ROWS, ROWS) and len(seen) == 8


def test_an_interrupted_export_leaves_nothing(table: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for suffix in READERS:
        with pytest.raises(KeyboardInterrupt):
            export(embstore.open(table), tmp_path / f"out{suffix}", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["t.emb"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(table: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, old[1]))
    try:
        for suffix in READERS:
            with pytest.raises(StorageError, match=f"out{suffix}"):
                export(embstore.open(table), tmp_path / f"out{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["t.emb"]


def test_export_from_python_refuses(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="csv"):
        export(embstore.open(table), tmp_path / "x.npy", format="csv")
    export(embstore.open(table), tmp_path / "x.npy")
    with pytest.raises(DestinationExistsError):
        export(embstore.open(table), tmp_path / "x.npy")
