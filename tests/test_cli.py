"""The command line from outside: what is printed where, exit codes, and files that other programs can read."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import embstore
from embstore import cli, pipeline, registry
from embstore.arrays import TableShape
from embstore.compression import store
from embstore.errors import ConfigError, DestinationExistsError, StorageError
from embstore.export import export
from embstore.method import nbytes
from embstore.report import sampled_error
from embstore.sources import open_source

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


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["embstore", *map(str, args)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture
def npy(tmp_path: Path, vectors: np.ndarray) -> Path:
    np.save(tmp_path / "v.npy", vectors)
    return tmp_path / "v.npy"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("".join(f"{w}\n" for w in WORDS), encoding="utf-8")
    return tmp_path / "words.txt"


@pytest.fixture
def table(tmp_path: Path, vectors: np.ndarray) -> Path:
    embstore.compress(vectors, tmp_path / "t.emb", "float32", keys=WORDS)
    return tmp_path / "t.emb"


@pytest.fixture
def keyless(tmp_path: Path, vectors: np.ndarray) -> Path:
    embstore.compress(vectors, tmp_path / "k.emb", "float32")
    return tmp_path / "k.emb"


def refused(done: Done, *parts: str, code: int = 1) -> None:
    """One sentence on stderr that names `parts`; nothing on stdout."""
    assert (done.code, done.out) == (code, ""), done
    assert "Traceback" not in done.err
    if code == 1:
        assert done.err.count("\n") == 1 and done.err.startswith("embstore: "), done.err
    for part in parts:
        assert part in done.err, done.err


# -- compress --------------------------------------------------------------------------------------


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


# -- inspect, lookup, verify, methods --------------------------------------------------------------


def test_inspect(run: Run, table: Path) -> None:
    report = run("inspect", table, "--json").json
    assert (report["method"], report["num_embeddings"], report["embedding_dim"]) == ("float32", ROWS, DIM)
    assert report["keys"] == {"type": "string", "count": ROWS}
    assert [a["name"] for a in report["arrays"]] == ["values"]
    text = run("inspect", table)
    assert text.code == 0 and "50 x 9" in text.out and "50 of type string" in text.out


def test_lookup_by_key(run: Run, table: Path, vectors: np.ndarray) -> None:
    done = run("lookup", table, WORDS[3], WORDS[1])
    assert done.code == 0 and done.err == ""
    lines = [line.split(" ") for line in done.out.splitlines()]
    assert [line[0] for line in lines] == [WORDS[3], WORDS[1]]
    np.testing.assert_allclose(np.array([line[1:] for line in lines], np.float32), vectors[[3, 1]], rtol=1e-5)


def test_lookup_of_an_unknown_key(run: Run, table: Path, vectors: np.ndarray) -> None:
    refused(run("lookup", table, WORDS[0], "nope"), "nope")
    zeros = run("lookup", table, WORDS[0], "nope", "--oov", "zeros", "--json").json["rows"]
    assert [r["found"] for r in zeros] == [True, False]
    assert zeros[1]["vector"] == [0.0] * DIM
    row = run("lookup", table, "nope", "--oov", "5", "--json").json["rows"][0]
    np.testing.assert_array_equal(np.array(row["vector"], np.float32), vectors[5])
    refused(run("lookup", table, "nope", "--oov", "whatever"), "whatever")


def test_lookup_by_id(run: Run, table: Path, keyless: Path, vectors: np.ndarray) -> None:
    for done in (run("lookup", keyless, 4, 0, "--json"), run("lookup", table, 4, 0, "--ids", "--json")):
        found = np.array([r["vector"] for r in done.json["rows"]], np.float32)
        np.testing.assert_array_equal(found, vectors[[4, 0]])
    refused(run("lookup", keyless, ROWS), str(ROWS))
    refused(run("lookup", keyless, "--", -1), "-1")
    refused(run("lookup", keyless, "cat"), "no keys", "cat")


def test_lookup_of_integer_keys(run: Run, tmp_path: Path, vectors: np.ndarray) -> None:
    embstore.compress(vectors, tmp_path / "i.emb", "float32", keys=np.arange(ROWS, dtype=np.int64) + 1000)
    row = run("lookup", tmp_path / "i.emb", 1007, "--json").json["rows"][0]
    np.testing.assert_array_equal(np.array(row["vector"], np.float32), vectors[7])
    refused(run("lookup", tmp_path / "i.emb", 7), "7")


def test_json_has_no_nan(run: Run, tmp_path: Path, vectors: np.ndarray) -> None:
    vectors[0, 0], vectors[0, 1] = np.nan, np.inf
    embstore.compress(vectors, tmp_path / "n.emb", "float32", nonfinite="keep")
    out = run("lookup", tmp_path / "n.emb", 0, "--json").out
    row = json.loads(out, parse_constant=pytest.fail)["rows"][0]["vector"]
    assert row[:2] == [None, None] and row[2] == pytest.approx(float(vectors[0, 2]))


def test_verify(run: Run, table: Path) -> None:
    good = run("verify", table)
    assert good.code == 0 and good.err == "" and "agrees" in good.out
    assert run("verify", table, "--json").json == {"path": str(table), "ok": True, "faults": []}
    shard = max((p for p in table.rglob("*") if p.is_file() and "values" in p.parts), key=lambda p: p.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[13] ^= 4
    shard.write_bytes(data)
    bad = run("verify", table, "--json")
    assert bad.code == 1 and bad.json["ok"] is False and "values" in bad.json["faults"][0]
    refused(run("verify", table), "values")


def test_there_is_no_table(run: Run, tmp_path: Path) -> None:
    for command in (("inspect",), ("verify",), ("lookup",), ("export",)):
        extra = {"lookup": ("1",), "export": (tmp_path / "x.npy",)}.get(command[0], ())
        refused(run(*command, tmp_path / "absent.emb", *extra), "absent.emb")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dim", [1, 128, 300])
def test_methods_say_what_they_store(run: Run, dim: int) -> None:
    report = run("methods", "--dim", dim, "--json").json
    assert report["embedding_dim"] == dim
    assert tuple(m["id"] for m in report["methods"]) == registry.names()
    for each in report["methods"]:
        shape = TableShape(1_000_000, dim)  # what is shared counts by its part of so many rows
        method = pipeline.create(each["id"]).resolve(shape)
        assert each["bytes_per_row"] == pytest.approx(nbytes(method, shape) / 1_000_000)
        inner = method.method if isinstance(method, pipeline.Pipeline) else method
        fields = {f.name for f in dataclasses.fields(inner)}
        assert {f["name"] for f in each["fields"]} == fields >= set(inner.config())
        assert each["id"] in run("methods").out
    assert run("methods", "--dim", 0).code == 2


# -- export ----------------------------------------------------------------------------------------


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


# -- the sampled error -----------------------------------------------------------------------------


def test_the_sample_is_spread_over_the_source(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((20_000, 3)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    # Half of the rows are wrong in the table: a sample of the first rows alone would not see it.
    wrong = rows.copy()
    wrong[10_000:] *= 2
    table = embstore.compress(wrong, tmp_path / "t.emb", "float32")
    with open_source(tmp_path / "v.npy") as source:
        error, compared = sampled_error(source, table, max_rows=8192)
    assert 8000 <= compared <= 8192
    assert error == pytest.approx(0.5, abs=0.1)


def test_the_sample_of_text_is_spread_too(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((5_000, 3)).astype(np.float32)
    wrong = rows.copy()
    wrong[2_500:] *= 2
    truth = embstore.compress(rows, tmp_path / "t.emb", "float32")
    export(truth, tmp_path / "v.txt")
    table = embstore.compress(wrong, tmp_path / "w.emb", "float32")
    with open_source(tmp_path / "v.txt") as source:
        error, compared = sampled_error(source, table, max_rows=2048)
    assert 1500 <= compared <= 2048
    assert error == pytest.approx(0.5, abs=0.2)


def test_an_error_of_zeros_is_not_a_number(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.zeros((4, 3), np.float32))
    table = embstore.compress(tmp_path / "z.npy", tmp_path / "z.emb", "int8")
    with open_source(tmp_path / "z.npy") as source:
        assert sampled_error(source, table) == (None, 4)


# -- the command itself ----------------------------------------------------------------------------


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
