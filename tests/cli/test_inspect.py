"""Looking at a table from the command line: inspect, lookup, verify, methods."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import DIM, ROWS, WORDS, Run, refused

import embstore
from embstore import pipeline, registry
from embstore.arrays import TableShape
from embstore.method import nbytes


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
