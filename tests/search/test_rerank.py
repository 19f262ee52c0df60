"""The second pass of a search: finer tables, original vectors, and the method kept in the table itself."""

import json
import os
import shutil

import numpy as np
import pytest
from truth import METRICS, brute_force

import embstore
from embstore import errors, sources
from embstore.testing import make_rows

N, DIM = 3000, 24


@pytest.fixture(scope="module")
def rows():
    return make_rows(N, DIM, hostile=False)


@pytest.fixture(scope="module")
def queries():
    return make_rows(20, DIM, 1, hostile=False)


@pytest.fixture
def table(rows, tmp_path):
    return embstore.compress(rows, tmp_path / "t", "int2", rerank="int8")


def nearest(rows, queries, metric, k=10):
    return np.argsort(-brute_force(rows, queries, metric), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("metric", METRICS)
def test_every_kind_of_rerank_gives_its_values(metric, table, rows, queries, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    rows.tofile(tmp_path / "rows.raw")
    finer = embstore.compress(rows, tmp_path / "finer", "float32")
    kinds = {
        "array": rows,
        "float64": rows.astype(np.float64),
        "memmap": np.load(tmp_path / "rows.npy", mmap_mode="r"),
        "table": finer,
        "path of a table": tmp_path / "finer",
        "path of rows": str(tmp_path / "rows.npy"),
        "source": sources.open_source(tmp_path / "rows.raw", format="raw", dtype="float32", shape=(N, DIM)),
    }
    truth = nearest(rows, queries, metric)
    for name, rerank in kinds.items():
        found = table.search(queries, 10, metric, rerank=rerank, rerank_k=N)
        assert np.array_equal(found[1], truth), name
    few = table.search(queries, 10, metric, rerank=rows)[1]
    none = table.search(queries, 10, metric)[1]
    hits = [sum(len(set(a) & set(b)) for a, b in zip(x.tolist(), truth.tolist(), strict=True)) for x in (few, none)]
    assert hits[0] > hits[1] + 20


def test_the_second_method_of_a_table(table, rows, queries, tmp_path):
    alone = embstore.compress(rows, tmp_path / "alone", "int8")
    assert table.rerank_nbytes == alone.nbytes and table.nbytes == len(rows) * 10 and alone.rerank_nbytes == 0
    assert table.reranker.metadata["digest"] == alone.metadata["digest"] == table.metadata["rerank"]["digest"]
    assert table.metadata["requires"] == []
    by_own = table.search(queries, 10, rerank=True)
    by_other = table.search(queries, 10, rerank=alone)
    assert np.array_equal(by_own[0], by_other[0]) and np.array_equal(by_own[1], by_other[1])
    plain = table.search(queries, 10, rerank=False)
    assert np.array_equal(plain[1], table.search(queries, 10)[1])
    assert sorted(os.listdir(tmp_path / "t" / "rerank")) == sorted(os.listdir(tmp_path / "alone"))


def test_keys_belong_to_the_table_and_pipelines_may_rerank(rows, tmp_path):
    seen = []
    names = [f"k{i}" for i in range(N)]
    table = embstore.compress(
        rows, tmp_path / "t", "pca8,int4", keys=names, rerank="center,int8", progress=lambda *at: seen.append(at)
    )
    assert table.keys is not None and table.reranker.keys is None
    assert [t.id for t in table.reranker.transforms] == ["center"]
    assert seen[-1] == (2 * N, 2 * N) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_verify_covers_the_second_method(table):
    assert table.verify() == []
    file = os.path.join(table.path, "rerank", "codes", "c", "0", "0")
    with open(file, "r+b") as stream:
        stream.seek(100)
        byte = stream.read(1)
        stream.seek(100)
        stream.write(bytes([byte[0] ^ 1]))
    (fault,) = table.verify()
    assert fault.array == "rerank/codes" and fault.rows[0] == 0 and str(fault).startswith("rerank/: block 0")


def test_another_table_in_its_place_is_refused(table, rows, tmp_path):
    shutil.rmtree(os.path.join(table.path, "rerank"))
    (fault,) = table.verify()
    assert fault.array == "rerank" and "no embstore table" in str(fault)
    embstore.compress(rows[::-1].copy(), os.path.join(table.path, "rerank"), "int8")
    (fault,) = table.verify()
    assert "not the one" in str(fault)
    with pytest.raises(errors.CorruptionError, match="not the one its metadata names"):
        embstore.open(table.path).search(rows[0], 3, rerank=True)


def test_a_failure_in_the_second_method_leaves_nothing(rows, tmp_path):
    large = np.full((10, 4), 1e10, np.float32)  # too large for float16 scales
    large[:, 0] = 0
    with pytest.raises(errors.ConfigError, match="scale_dtype"):
        embstore.compress(large, tmp_path / "t", "float32", rerank="int8")
    assert os.listdir(tmp_path) == []


def test_interrupted_in_the_second_method_it_continues(rows, tmp_path):
    def stop(done, total):
        if done > N:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embstore.compress(rows, tmp_path / "t", "int4", rerank="int8", progress=stop)
    assert not (tmp_path / "t").exists()
    table = embstore.compress(rows, tmp_path / "t", "int4", rerank="int8")
    assert table.verify() == [] and not [name for name in os.listdir(tmp_path / "t") if name.startswith(".")]
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize(
    ("rerank", "kind", "text"),
    [
        (True, errors.ConfigError, "second method"),
        (np.zeros((5, DIM)), errors.ShapeError, r"shape \(3000, 24\)"),
        (3, errors.ConfigError, "found int"),
        ("/nowhere/at/all.npy", errors.SourceNotFoundError, "all.npy"),
    ],
)
def test_refused(rerank, kind, text, rows, tmp_path):
    table = embstore.compress(rows, tmp_path / "t", "int8")
    with pytest.raises(kind, match=text):
        table.search(rows[0], 3, rerank=rerank)


@pytest.mark.parametrize("rerank_k", [9, True, 12.0])
def test_too_few_candidates_are_refused(rerank_k, table, queries):
    with pytest.raises(errors.ConfigError, match="rerank_k must be"):
        table.search(queries, 10, rerank_k=rerank_k)


@pytest.mark.parametrize("value", [3, {}, {"path": "..", "digest": "x"}, {"path": "rerank", "digest": 1}])
def test_what_the_metadata_says_is_checked(value, table):
    from embstore.format import metadata

    file = os.path.join(table.path, "zarr.json")
    with open(file) as stream:
        group = json.load(stream)
    meta = group["attributes"]["embstore"]
    meta["rerank"] = value
    meta["digest"] = metadata.digest(meta)
    with open(file, "w") as stream:
        json.dump(group, stream)
    with pytest.raises(errors.FormatError, match="rerank"):
        embstore.open(table.path)


def test_the_second_method_is_mapped_or_in_memory_as_its_table_is(table):
    held, mapped = embstore.open(table.path, mmap=False), embstore.open(table.path)
    before = held.reranker.lookup(range(N))
    assert np.array_equal(mapped.reranker.lookup(range(N)), before)
    for folder, _, files in os.walk(os.path.join(table.path, "rerank", "codes")):
        for file in files:
            with open(os.path.join(folder, file), "r+b") as stream:
                stream.write(bytes(os.fstat(stream.fileno()).st_size))
    assert np.array_equal(held.reranker.lookup(range(N)), before)
    assert not np.array_equal(mapped.reranker.lookup(range(N)), before)
