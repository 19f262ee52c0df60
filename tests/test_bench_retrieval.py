"""The search benchmark: its measures by their definitions, its readers, what it refuses, and its page."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from bench import retrieval_data, retrieval_judged
from bench.html import page, runs
from bench.retrieval_data import read
from embstore.errors import MissingDependencyError, SourceError, SourceNotFoundError

METHODS = ["float32", "int4", "pq@2bpd"]


def lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.fixture
def beir(tmp_path):
    """A folder of 40 documents, 12 queries and graded judgements, with vectors as .npy."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    lines(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": "t", "text": f"word{i} of {i % 3}"} for i in range(40)])
    lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"word{i}"} for i in range(12)])
    judged = [f"q{q}\td{d}\t{score}" for q in range(1, 11) for d, score in ((3 * q, 2), (q, 1), (q + 11, 0))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    corpus = rng.standard_normal((40, 16), dtype=np.float32)
    np.save(folder / "corpus.npy", corpus)
    queries = corpus[[3 * q % 40 for q in range(12)]] + 1.5 * rng.standard_normal((12, 16), dtype=np.float32)
    np.save(folder / "queries.npy", queries.astype(np.float32))
    return folder


def exact(folder, k):
    """Mean nDCG@k and recall@k of cosines, written out: no code of the benchmark."""
    corpus, queries = (np.load(folder / f"{name}.npy").astype(np.float64) for name in ("corpus", "queries"))
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    ndcg, recall = [], []
    for q in range(1, 11):
        gain = np.zeros(40)
        gain[q], gain[3 * q] = 1, 2
        order = np.argsort(-(corpus @ queries[q]))[:k]
        discount = 1 / np.log2(np.arange(k) + 2)
        ndcg.append(gain[order] @ discount / (np.sort(gain)[::-1][:k] @ discount))
        recall.append((gain[order] > 0).sum() / 2)
    return np.mean(ndcg), np.mean(recall)


def run(tmp_path, *arguments):
    out = tmp_path / "search.json"
    code = retrieval_judged.main([*map(str, arguments), "--out", str(out), "--dir", str(tmp_path)])
    return code, json.loads(out.read_text()) if out.exists() else None


def test_exact_search_has_the_ndcg_of_a_plain_evaluation(beir, tmp_path):
    code, found = run(tmp_path, "--data", beir, "--methods", *METHODS, "--k", 1, 5, 10, 100)
    assert code == 0
    (asked,) = found["searched"]
    assert (asked["k"], asked["queries"], asked["vectors"]) == ([1, 5, 10], 10, "given")
    rows = {(r["who"], r["name"], r["rerank"]): r for r in asked["rows"]}
    for k in asked["k"]:
        ndcg, recall = exact(beir, k)
        for who in (("embstore", "float32", False), ("FAISS", "Flat", False), ("embstore", "int4", True)):
            if who in rows:
                assert rows[who][f"nDCG@{k}"] == pytest.approx(ndcg, abs=1e-9)
                assert rows[who][f"recall@{k}"] == pytest.approx(recall, abs=1e-9)
    plain, reranked = rows["embstore", "int4", False], rows["embstore", "int4", True]
    assert reranked["nbytes"] == plain["nbytes"] + 40 * 16 * 4
    measured = [r for r in asked["rows"] if "reason" not in r]
    assert all(r["queries_per_s"] > 0 < r["queries_per_s_alone"] and r["build_seconds"] > 0 for r in measured)
    assert "needs at least" in next(r["reason"] for r in asked["rows"] if r["name"] == "pq@2bpd")


def test_results_of_several_sets_are_kept_and_shown(beir, tmp_path):
    other = tmp_path / "other"
    beir.rename(other)
    first = run(tmp_path, "--data", other, "--methods", "float32", "--no-peers", "--k", 5)[1]
    (other / "corpus.npy").unlink()
    (other / "queries.npy").unlink()
    other.rename(beir)
    code, found = run(tmp_path, "--data", beir, "--methods", *METHODS, "--no-peers", "--k", 5, "--dim", 64)
    assert code == 0 and found["searched"][0] == first["searched"][0]
    assert found["searched"][1]["vectors"] == "words hashed to 64 values"
    content, files = page.build(runs.read([tmp_path / "search.json"]))
    assert [t.name for t in files] == ["search-1", "search-2", "environment"]
    assert content.count("nDCG@5 for the bytes") >= 2
    (tmp_path / "search.json").write_text(json.dumps({**found, "version": 9}))
    with pytest.raises(runs.InputError, match="version must be 1, found 9"):
        page.build(runs.read([tmp_path / "search.json"]))
    with pytest.raises(SystemExit, match="must be results of search of version 1, found 9"):
        run(tmp_path, "--data", beir, "--no-peers")


def test_hashed_words_find_the_text_that_has_them(beir):
    (beir / "corpus.npy").unlink()
    (beir / "queries.npy").unlink()
    asked = read(str(beir), None, 512)
    assert np.allclose(np.linalg.norm(asked.rows, axis=1), 1, atol=1e-5)
    assert ((asked.queries @ asked.rows.T).argmax(axis=1) == np.arange(1, 11)).mean() > 0.8
    assert np.array_equal(asked.rows, read(str(beir), None, 512).rows)


def test_vectors_of_parquet_are_found_by_id(beir):
    rows = np.load(beir / "corpus.npy")
    wanted = read(str(beir), None, 8)
    order = np.random.default_rng(1).permutation(40)
    table = pa.table({"_id": [f"d{i}" for i in order], "vector": [rows[i].tolist() for i in order]})
    parquet.write_table(table, beir / "corpus.parquet")
    (beir / "corpus.npy").unlink()
    assert np.array_equal(read(str(beir), None, 8).rows, wanted.rows)


@pytest.mark.parametrize("distance", ["angular", "euclidean", "dot"])
def test_neighbours_of_ann_benchmarks(distance, tmp_path):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    rows, queries = rng.standard_normal((300, 8), dtype=np.float32), rng.standard_normal((20, 8), dtype=np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = {
        "angular": queries @ unit.T, "dot": queries @ rows.T,
        "euclidean": -np.square(queries[:, None] - rows).sum(axis=2),
    }[distance]  # fmt: skip
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file.attrs["distance"] = distance
        file["train"], file["test"], file["neighbors"] = rows, queries, np.argsort(-scores, axis=1)[:, :20]
    code, found = run(tmp_path, "--data", tmp_path / "set.hdf5", "--methods", "float32", "int2", "--k", 10)
    assert code == 0
    by = {(r["who"], r["name"], r["rerank"]): r for r in found["searched"][0]["rows"]}
    assert by["embstore", "float32", False]["recall@10"] == 1 and by["embstore", "int2", False]["recall@10"] < 1
    assert all(row.get("nDCG@10") is None for row in by.values())
    if ("FAISS", "Flat", False) in by:
        assert by["FAISS", "Flat", False]["recall@10"] == 1
    assert run(tmp_path, "--data", tmp_path / "set.hdf5", "--k", 30)[0] == 2
    page.build(runs.read([tmp_path / "search.json"]))


def test_limit_small():
    try:
        asked = read("limit-small", None, 256)
    except SourceNotFoundError:
        pytest.skip("no LIMIT-small here; set EMBSTORE_TEST_DATA")
    assert (len(asked.rows), len(asked.queries)) == (46, 1000) and {len(r) for r in asked.relevant} == {2}


def damage(folder, what):
    if what == "vectors":
        np.save(folder / "corpus.npy", np.zeros((39, 16), np.float32))
    elif what == "nan":
        np.save(folder / "corpus.npy", np.full((40, 16), np.nan, np.float32))
    elif what == "widths":
        np.save(folder / "queries.npy", np.zeros((12, 5), np.float32))
    elif what == "one side":
        (folder / "queries.npy").unlink()
    elif what == "an id":
        with (folder / "qrels" / "test.tsv").open("a") as file:
            file.write("q1\tnobody\t1\n")
    elif what == "a score":
        with (folder / "qrels" / "test.tsv").open("a") as file:
            file.write("q1\td1\tgood\n")
    elif what == "twice":
        lines(folder / "corpus.jsonl", [{"_id": "d1"}] * 40)
    elif what == "no object":
        (folder / "queries.jsonl").write_text("who\n")
    else:
        (folder / "qrels" / "test.tsv").unlink()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("vectors", r"corpus.npy must have a row for each of 40 lines, found an array of \(39, 16\)"),
        ("nan", "corpus.npy must hold finite numbers"),
        ("widths", "vectors of queries must have the 16 values of the corpus, found 5"),
        ("one side", "must have vectors of corpus and queries, found those of corpus; add queries.npy"),
        ("an id", "must name ids of corpus, found 'nobody'"),
        ("a score", "test.tsv, line 32 must be query, document and score"),
        ("twice", "must have ids that differ, found 'd1' twice"),
        ("no object", "queries.jsonl, line 1 must be an object with _id, found 'who'"),
        ("no judgements", "must have qrels.jsonl or qrels.jsonl.gz, found neither"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(beir, what, says, capsys, tmp_path):
    damage(beir, what)
    with pytest.raises((SourceError, SourceNotFoundError), match=says):
        read(str(beir), None, 8)
    assert run(tmp_path, "--data", beir)[0] == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_files_that_are_none_of_ann_benchmarks(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "text.hdf5").write_text("no HDF5")
    with pytest.raises(SourceError, match="must be an HDF5 file of ann-benchmarks"):
        read(str(tmp_path / "text.hdf5"), None, 8)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"] = np.zeros((3, 2))
    with pytest.raises(SourceError, match="must have train, test, neighbors, found train"):
        read(str(tmp_path / "a.hdf5"), None, 8)
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.attrs["distance"] = "jaccard"
        file["train"], file["test"], file["neighbors"] = np.zeros((3, 2)), np.zeros((1, 2)), np.zeros((1, 3), int)
    with pytest.raises(SourceError, match="must be one of angular, euclidean, dot, found 'jaccard'"):
        read(str(tmp_path / "b.hdf5"), None, 8)
    with pytest.raises(SourceNotFoundError, match="give a folder of BEIR or an HDF5 file"):
        read(str(tmp_path / "c.hdf5"), None, 8)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"needs h5py, found none; pip install embstore\[hdf5\]"):
        read(str(tmp_path / "a.hdf5"), None, 8)


def test_measures_by_hand():
    asked = retrieval_data.Questions(
        "x", np.zeros((5, 2), np.float32), np.zeros((1, 2), np.float32), "l2", [np.array([4, 2, 0])],
        [np.array([3.0, 1.0, 1.0])], "given",
    )  # fmt: skip
    found = retrieval_judged.measures(asked, np.array([[2, 4, 1, 0, 3]]), [1, 2, 5])
    assert found["recall@1"] == pytest.approx(1 / 3) and found["nDCG@1"] == pytest.approx(1 / 3)
    assert found["nDCG@2"] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert found["recall@5"] == 1
