"""`embstore search` and `embstore index` from outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import cli
from embstore.testing import make_rows

ROWS, DIM = 600, 16
WORDS = [f"wörd{i}" for i in range(ROWS)]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["embstore", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """FAISS's threads wait by spinning."""
    embstore.set_num_threads(1)
    yield
    embstore.set_num_threads(None)


@pytest.fixture
def rows() -> np.ndarray:
    return make_rows(ROWS, DIM, hostile=False)


@pytest.fixture
def table(rows: np.ndarray, tmp_path: Path) -> embstore.Table:
    return embstore.compress(rows, tmp_path / "t", "int4", keys=WORDS, rerank="int8")


def test_keys_are_searched_and_shown(run: Run, table: embstore.Table) -> None:
    code, out, _ = run("search", table.path, "wörd3", "wörd5", "-k", 4)
    scores, ids = table.search(table.lookup(["wörd3", "wörd5"]), 4)
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and [line[0] for line in lines] == ["wörd3"] * 4 + ["wörd5"] * 4
    assert [line[1] for line in lines] == [WORDS[i] for i in ids.ravel()]
    np.testing.assert_allclose([float(line[2]) for line in lines], scores.ravel(), rtol=1e-5)


def test_one_json_document(run: Run, table: embstore.Table) -> None:
    code, out, err = run("search", table.path, "3", "--by", "id", "--metric", "l2", "-k", 2, "--json")
    document = json.loads(out)
    scores, ids = table.search(table.lookup(3), 2, "l2")
    hits = [{"id": i, "key": WORDS[i], "score": s} for i, s in zip(ids.tolist(), scores.tolist(), strict=True)]
    assert (code, err) == (0, "") and document["queries"] == [{"query": "3", "hits": hits}]
    assert (document["metric"], document["k"], document["index"]) == ("l2", 2, None)


def test_vectors_from_files(run: Run, table: embstore.Table, rows: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", rows[:2])
    np.save(tmp_path / "one.npy", rows[9])
    two, one = tmp_path / "two.npy", tmp_path / "one.npy"
    code, out, _ = run("search", table.path, two, one, "--by", "vectors", "-k", 1, "--rerank", "second")
    assert code == 0 and [line.split("\t")[:2] for line in out.splitlines()] == [
        [f"{two}[0]", WORDS[0]], [f"{two}[1]", WORDS[1]], [str(one), WORDS[9]],
    ]  # fmt: skip


def test_filter_and_rerank_by_the_original(run: Run, table: embstore.Table, rows: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("7\n12\n\n500\n")
    np.save(tmp_path / "rows.npy", rows)
    options = ["--filter", tmp_path / "ids.txt", "--rerank", tmp_path / "rows.npy", "--metric", "ip", "--json"]
    code, out, _ = run("search", table.path, "wörd7", "-k", 3, *options)
    hits = json.loads(out)["queries"][0]["hits"]
    query = table.lookup("wörd7")
    assert code == 0 and {hit["id"] for hit in hits} == {7, 12, 500}
    np.testing.assert_allclose([hit["score"] for hit in hits], rows[[hit["id"] for hit in hits]] @ query, rtol=1e-4)


def test_a_table_of_ids_is_searched_by_ids(run: Run, rows: np.ndarray, tmp_path: Path) -> None:
    embstore.compress(rows, tmp_path / "ids")
    code, out, _ = run("search", tmp_path / "ids", "4", "-k", 1)
    assert code == 0 and out.split("\t")[:2] == ["4", "4"]


def test_an_index_is_built_and_searched(run: Run, table: embstore.Table) -> None:
    pytest.importorskip("faiss")
    code, out, _ = run("index", table.path, "--factory", "IVF4,Flat", "--name", "few", "--json")
    made = json.loads(out)
    assert code == 0 and made["nbytes"] == table.index("few").nbytes and made["num_embeddings"] == ROWS
    code, out, _ = run("search", table.path, "wörd1", "--index", "few", "--nprobe", 4, "-k", 3)
    _, ids = table.search(table.lookup("wörd1"), 3)
    assert code == 0 and [line.split("\t")[1] for line in out.splitlines()] == [WORDS[i] for i in ids]
    code, out, _ = run("index", table.path, "--factory", "Flat", "--name", "few", "--overwrite")
    assert code == 0 and "few (Flat, cosine)" in out


def test_the_second_method_is_shown(run: Run, rows: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows)
    code, out, _ = run("compress", tmp_path / "rows.npy", tmp_path / "t", "-m", "int2", "--rerank", "int8")
    assert code == 0 and "more by int8" in out
    code, out, _ = run("inspect", tmp_path / "t", "--json")
    assert json.loads(out)["rerank"] == {"method": "int8", "nbytes": ROWS * (DIM + 4)}
    assert "int8, 12.00 kB more" in run("inspect", tmp_path / "t")[1]


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["nothing"], 1, "'nothing'"),
        (["wörd1", "-k", 0], 1, "k must be a positive integer"),
        (["x", "--by", "id"], 2, "a row id must be an integer"),
        (["missing.npy", "--by", "vectors"], 1, "missing.npy"),
        (["wörd1", "--filter", "missing.txt"], 1, "missing.txt"),
        (["wörd1", "--index", "other"], 1, "index 'other'"),
        (["wörd1", "--rerank", "missing"], 1, "missing"),
        (["wörd1", "--metric", "dot"], 2, "--metric"),
    ],
)
def test_refused_in_one_sentence(args: list[object], code: int, text: str, run: Run, table: embstore.Table) -> None:
    found, out, err = run("search", table.path, *args)
    assert (found, out) == (code, "") and text in err and "Traceback" not in err
    assert code == 2 or len(err.splitlines()) == 1


def test_indexes_are_refused_in_one_sentence(run: Run, table: embstore.Table) -> None:
    pytest.importorskip("faiss")
    for args, text in ((["--factory", "IVF9999,Flat"], "could not build"), (["--name", "a/b"], "index name must be")):
        code, out, err = run("index", table.path, *args)
        assert (code, out) == (1, "") and text in err and len([x for x in err.splitlines() if "embstore:" in x]) == 1
