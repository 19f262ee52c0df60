"""Tables as FAISS indexes and FAISS indexes as tables: the same codes, the same rows, the same neighbours."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import cli, errors
from embstore.export import export
from embstore.testing import make_rows

faiss = pytest.importorskip("faiss")
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("EMBSTORE_TEST_DATA", ROOT.parent / "shared" / "data"))
N, DIM = 700, 26


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """FAISS's threads wait by spinning."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    embstore.set_num_threads(1)
    yield
    embstore.set_num_threads(None)
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows with a mean and directions of unequal variance, in a range that float16 holds."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((N, DIM)) @ rng.standard_normal((DIM, DIM)) + rng.standard_normal(DIM)).astype("f4")


def everything(table: embstore.Table) -> np.ndarray:
    return table.lookup(np.arange(table.num_embeddings))


def codes_of(table: embstore.Table) -> list[np.ndarray]:
    """Codes, or the values of the methods that have no codes."""
    name = "codes" if "codes" in table._stored.shards[0] else "values"
    return [np.asarray(shard[name]) for shard in table._stored.shards]


def assert_close(found: np.ndarray, expected: np.ndarray, ulps: int) -> None:
    """Equal but for `ulps` last bits of the largest value; to the bit for 0."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=ulps * 2**-23 * float(np.abs(expected).max()))


# Pipeline, config, kind of index, whether "ip" can be had, ulps of the largest value that FAISS rounds otherwise.
TABLES = [
    ("pq13x8", {}, "IndexPQ", True, 0),
    ("pq2x1", {}, "IndexPQ", True, 0),
    ("pq13x4", {"codebook_dtype": "float16"}, "IndexPQ", True, 0),
    ("pq13x6", {}, "IndexPQ", True, 0),
    ("pq2x9", {}, "IndexPQ", True, 0),
    ("pq5x4", {}, "IndexPreTransform", True, 0),  # slices of 5 and 6 values
    ("pq7x3", {"codebook_dtype": "float16"}, "IndexPreTransform", True, 0),
    ("opq13x26", {"bits": 4}, "IndexPreTransform", True, 4),
    ("opq5x20", {"bits": 4}, "IndexPreTransform", True, 4),
    ("pca12,pq4x5", {}, "IndexPreTransform", False, 4),
    ("center,rotate,pq7x4", {}, "IndexPreTransform", False, 8),
    ("truncate12,pq3x6", {}, "IndexPQ", True, 0),
    ("rq3x5", {}, "IndexResidualQuantizer", True, 0),
    ("rq2x9", {"codebook_dtype": "float16", "beam": 3}, "IndexResidualQuantizer", True, 0),
    ("pca10,rq3x4", {}, "IndexPreTransform", False, 4),
    ("float32", {}, "IndexFlat", True, 0),
    ("float16", {}, "IndexScalarQuantizer", True, 0),
    ("bfloat16", {}, "IndexScalarQuantizer", True, 0),
    ("pca10,float16", {}, "IndexPreTransform", False, 4),
    ("int8", {"symmetric": True, "step": 0.2}, "IndexScalarQuantizer", True, 2),
    ("int8", {"symmetric": True, "step": 1.0}, "IndexScalarQuantizer", True, 0),
    ("rabitq1", {}, "IndexPreTransform", True, 8),
    ("center,rotate,rabitq1", {"scale_dtype": "float32"}, "IndexPreTransform", False, 8),
]
IDS = [f"{spec} {' '.join(map(str, config.values()))}".strip() for spec, config, *_ in TABLES]


@pytest.mark.parametrize(("spec", "config", "kind", "ip", "ulps"), TABLES, ids=IDS)
def test_to_faiss_and_back(
    spec: str, config: dict[str, object], kind: str, ip: bool, ulps: int, rows: np.ndarray, tmp_path: Path
) -> None:
    table = embstore.compress(rows, tmp_path / "t", spec, **config)
    expected = everything(table)
    queries = expected[:20] + np.float32(0.3)
    for metric in ("l2", "ip"):
        if metric == "ip" and not ip:
            with pytest.raises(errors.ConfigError, match="changes inner products"):
                embstore.to_faiss(table, metric)
            continue
        index = embstore.to_faiss(table, metric)
        assert (type(index).__name__, index.ntotal, index.d) == (kind, N, table.embedding_dim)
        assert_close(index.reconstruct_n(), expected, ulps)
        best = table.search(queries, 10, metric)[1]
        found = index.search(queries, 10)[1]
        # Rows of few codes are alike, and equal ones may come in another order.
        assert_close(*(_scores(expected, queries, ids, metric) for ids in (found, best)), 16)
        done = export(table, tmp_path / f"{metric}.faiss", metric=metric)
        assert (done.format, done.rows, done.keys) == ("faiss", N, 0)
        back = embstore.from_faiss(done.path, tmp_path / metric)
        for one, other in zip(codes_of(back), codes_of(table), strict=True):
            np.testing.assert_array_equal(one, other)
        assert back.method == table.method and back.verify() == []
        assert_close(everything(back), expected, 0 if "rotate" not in spec and "rabitq" not in spec else ulps)


def _scores(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray, metric: str) -> np.ndarray:
    near = rows[ids].astype(np.float64)
    if metric == "ip":
        return np.einsum("qkd,qd->qk", near, queries)
    return np.square(near - queries[:, None]).sum(axis=2)


# Factory string, the transforms and the method it becomes, ulps.
FOREIGN = [
    ("PQ13x4", [], "pq", 0),
    ("PQ2x6np", [], "pq", 0),
    ("OPQ13,PQ13x4", ["opq"], "pq", 4),
    ("OPQ4_12,PQ4x4", ["opq"], "pq", 4),
    ("PCAR12,PQ4x4", ["pca"], "pq", 4),
    ("RR26,PQ13x4", ["opq"], "pq", 4),
    ("L2norm,PQ13x4", [], "pq", 0),
    ("RQ3x5", [], "rq", 0),
    ("RQ3x5_Nfloat", [], "rq", 0),
    ("LSQ3x4_Nqint8", [], "rq", 0),
    ("Flat", [], "float32", 0),
    ("PCA12,Flat", ["pca"], "float32", 4),
    ("SQfp16", [], "float16", 0),
    ("SQbf16", [], "bfloat16", 0),
    ("RaBitQ", ["center"], "rabitq", 4),
    ("RR20,RaBitQ", ["pca", "center"], "rabitq", 4),
    ("HNSW8,PQ13x4", [], "pq", 0),
]


@pytest.mark.parametrize(("factory", "transforms", "method", "ulps"), FOREIGN, ids=[f for f, *_ in FOREIGN])
def test_what_faiss_trained(
    factory: str, transforms: list[str], method: str, ulps: int, rows: np.ndarray, tmp_path: Path
) -> None:
    index = faiss.index_factory(DIM, factory)
    index.train(rows)
    index.add(rows)
    faiss.write_index(index, str(tmp_path / "i.faiss"))
    table = embstore.from_faiss(tmp_path / "i.faiss", tmp_path / "t")
    assert ([t.id for t in table.transforms], table.method.id) == (transforms, method)
    assert (table.num_embeddings, table.embedding_dim, table.keys) == (N, DIM, None)
    expected = index.reconstruct_n()
    assert_close(everything(table), expected, ulps)
    again = embstore.from_faiss(embstore.to_faiss(table), tmp_path / "again")
    assert_close(everything(again), expected, 2 * ulps)
    provenance = table.metadata["provenance"]
    assert (provenance["source"], provenance["source_format"]) == ("i.faiss", "faiss")


@pytest.mark.parametrize(
    ("kind", "values", "config"),
    [
        ("QT_8bit_uniform", lambda x: x, {"symmetric": False}),
        ("QT_8bit_direct", lambda x: np.clip(np.rint(np.abs(x) * 20), 0, 255), {"step": 1.0, "offset": 0.0}),
        ("QT_8bit_direct_signed", lambda x: np.clip(np.rint(x * 99), -128, 127), {"step": 1.0, "offset": -128.0}),
        ("QT_8bit_direct_signed", lambda x: np.clip(np.rint(x * 99), -127, 127), {"symmetric": True, "step": 1.0}),
    ],
)
def test_scalar_codes_of_one_range(
    kind: str, values: object, config: dict[str, object], rows: np.ndarray, tmp_path: Path
) -> None:
    given = values(rows)  # type: ignore[operator]
    index = faiss.IndexScalarQuantizer(DIM, getattr(faiss.ScalarQuantizer, kind))
    index.train(given)
    index.add(given)
    table = embstore.from_faiss(index, tmp_path / "t")
    assert table.method.id == "int8" and table.method.config() | config == table.method.config()
    assert_close(everything(table), index.reconstruct_n(), 2 if kind == "QT_8bit_uniform" else 0)
    again = embstore.to_faiss(table)
    assert again.sq.qtype == index.sq.qtype
    assert np.array_equal(faiss.vector_to_array(again.codes), faiss.vector_to_array(index.codes))


def test_ids_of_a_map_are_keys_and_given_keys_go_before(rows: np.ndarray, tmp_path: Path) -> None:
    index = faiss.index_factory(DIM, "IDMap,PQ13x4")
    index.train(rows)
    index.add_with_ids(rows, np.arange(N) * 7 + 5)
    table = embstore.from_faiss(index, tmp_path / "t")
    assert list(table.keys[:3]) == [5, 12, 19]
    words = [f"wörd {i}" for i in range(N)]
    table = embstore.from_faiss(index, tmp_path / "w", keys=words)
    assert table.keys[N - 1] == words[-1]
    with pytest.raises(errors.SourceError, match="needs 700 keys, found 3"):
        embstore.from_faiss(index, tmp_path / "x", keys=words[:3])
    with pytest.raises(errors.DestinationExistsError):
        embstore.from_faiss(index, tmp_path / "w")
    assert embstore.from_faiss(index, tmp_path / "w", overwrite=True).keys.type == "int64"


def test_tables_of_many_shards(rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embstore.format import layout

    monkeypatch.setattr(layout, "geometry", lambda n, sizes: (256, 64))
    for spec in ("pq13x4", "rotate,rabitq1"):
        table = embstore.compress(rows, tmp_path / spec, spec)
        assert len(table._stored.shards) == 3
        back = embstore.from_faiss(embstore.to_faiss(table), tmp_path / f"{spec} back")
        assert_close(everything(back), everything(table), 8)


@pytest.mark.parametrize(
    ("spec", "config", "text"),
    [
        ("int4", {}, "no layout for the codes of 'int4', only for those of pq, rq"),
        ("int8", {}, "scale for each row or block"),
        ("int8", {"symmetric": True}, "scale for each row or block"),
        ("rabitq4", {}, "1 bit only, found rabitq with 4 bits"),
        ("whiten,pq13x4", {}, "undone as 'whiten' is"),
    ],
)
def test_tables_that_faiss_cannot_hold(
    spec: str, config: dict[str, object], text: str, rows: np.ndarray, tmp_path: Path
) -> None:
    table = embstore.compress(rows, tmp_path / "t", spec, **config)
    with pytest.raises(errors.ConfigError, match=text):
        embstore.to_faiss(table)
    with pytest.raises(errors.ConfigError, match=text):
        export(table, tmp_path / "x.faiss")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    with pytest.raises(errors.ConfigError, match="must be 'l2' or 'ip'"):
        embstore.to_faiss(table, "cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        ("SQ8", "range for each dimension"),
        ("IVF4,PQ13x4", "found IndexIVFPQ; compress"),
        ("PQ2x4fs", "found IndexPQFastScan"),
        ("RQ1x4_2x6", r"the same 1 to 16 bits, found 3 of \[4, 6\]"),
        ("RaBitQ4", "must have 1 bit a value, found 4"),
        ("ITQ,PQ13x4", "found ITQTransform"),
        ("PCAW8,Flat", "must have orthonormal rows"),
        ("RR40,PQ4x4", "must have orthonormal rows"),
        ("Pad40,PQ8x4", "found RemapDimensionsTransform"),
    ],
)
def test_indexes_that_mean_nothing_here(factory: str, text: str, rows: np.ndarray, tmp_path: Path) -> None:
    index = faiss.index_factory(DIM, factory)
    index.train(rows)
    index.add(rows)
    with pytest.raises(errors.ConfigError, match=text):
        embstore.from_faiss(index, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_index(rows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(errors.SourceNotFoundError, match="no FAISS index file"):
        embstore.from_faiss(tmp_path / "x.faiss", tmp_path / "t")
    with pytest.raises(errors.SourceTypeError, match="found ndarray"):
        embstore.from_faiss(rows, tmp_path / "t")
    index = faiss.IndexFlatL2(DIM)
    with pytest.raises(errors.ConfigError, match="found 0 rows"):
        embstore.from_faiss(index, tmp_path / "t")
    index.add(rows)
    faiss.write_index(index, str(tmp_path / "whole.faiss"))
    whole = (tmp_path / "whole.faiss").read_bytes()
    at = whole.index(struct.pack("<Q", N * DIM))
    for data in (
        b"IxF2",
        whole[:-1],
        b"nonsense" * 100,
        whole[:at] + struct.pack("<Q", 1 << 30) + whole[at + 8 :],  # 4 GiB, were they believed
        whole[:8] + struct.pack("<q", N - 1) + whole[16:],
    ):
        (tmp_path / "x.faiss").write_bytes(data)
        with pytest.raises((errors.SourceError, errors.ConfigError)):
            embstore.from_faiss(tmp_path / "x.faiss", tmp_path / "t")
    (tmp_path / "x.faiss").write_bytes(b"nonsense" * 100)
    with pytest.raises(errors.SourceError, match=r"FAISS refuses it \(Index type .* not recognized\)"):
        embstore.from_faiss(tmp_path / "x.faiss", tmp_path / "t")
    assert not (tmp_path / "t").exists()
    with pytest.raises(errors.SourceError, match="a FAISS index of codes; `embstore import`"):
        embstore.compress(tmp_path / "whole.faiss", tmp_path / "t")


def test_numbers_of_an_index_are_held_against_each_other(rows: np.ndarray, tmp_path: Path) -> None:
    index = embstore.to_faiss(embstore.compress(rows, tmp_path / "t", "opq13x26", bits=4))
    linear = faiss.downcast_VectorTransform(index.chain.at(0))
    matrix = faiss.vector_to_array(linear.A)
    for changed, text in ((matrix[:-1], "must have 676 finite values"), (matrix * np.nan, "676 finite values")):
        faiss.copy_array_to_vector(changed, linear.A)
        with pytest.raises(errors.ConfigError, match=text):
            embstore.from_faiss(index, tmp_path / "x")
    faiss.copy_array_to_vector(matrix, linear.A)
    inner = faiss.downcast_index(index.index)
    centroids = faiss.vector_to_array(inner.pq.centroids)
    faiss.copy_array_to_vector(centroids[:-1], inner.pq.centroids)
    with pytest.raises(errors.ConfigError, match="centroids of a FAISS index must be 416 values, found 415"):
        embstore.from_faiss(index, tmp_path / "x")


def test_the_limit_of_faiss_is_put_back(rows: np.ndarray, tmp_path: Path) -> None:
    if not hasattr(faiss, "get_deserialization_vector_byte_limit"):
        pytest.skip("this faiss has no limit to set")
    before = faiss.get_deserialization_vector_byte_limit()
    export(embstore.compress(rows, tmp_path / "t", "pq13x4"), tmp_path / "x.faiss")
    embstore.from_faiss(tmp_path / "x.faiss", tmp_path / "back")
    (tmp_path / "y.faiss").write_bytes(b"nonsense")
    with pytest.raises(errors.SourceError):
        embstore.from_faiss(tmp_path / "y.faiss", tmp_path / "z")
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_without_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = embstore.compress(make_rows(5, 4, hostile=False), tmp_path / "t", "float32")
    monkeypatch.setitem(sys.modules, "faiss", None)
    for ask in (lambda: embstore.to_faiss(table), lambda: embstore.from_faiss("x.faiss", tmp_path / "x")):
        with pytest.raises(errors.MissingDependencyError, match=r"pip install embstore\[faiss\]"):
            ask()


@pytest.mark.skipif(not (DATA / "words").is_dir(), reason="the test data is not here")
@pytest.mark.parametrize(("spec", "config"), [("pq12x8", {}), ("opq10x50", {"bits": 4}), ("rotate,rabitq1", {})])
def test_words_there_and_back_by_the_command(spec: str, config: dict[str, object], tmp_path: Path) -> None:
    """Real rows of 50 values, which no number of slices but 1, 2, 5, 10, 25 and 50 divides."""
    vectors, vocabulary = (DATA / "words" / f"glove.6B.50d.top100k.{end}" for end in ("npy", "vocab.txt.gz"))
    table = embstore.compress(vectors, tmp_path / "t", spec, keys=vocabulary, **config)
    commands = [
        ["export", "t", "t.faiss", "--keys", "keys.txt"],
        ["import", "t.faiss", "back", "--keys", "keys.txt"],
        ["search", "back", "king", "-k", "5"],
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in commands:
        run = [sys.executable, "-m", "embstore.cli", *command]
        done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    back = embstore.open(tmp_path / "back")
    for one, other in zip(codes_of(back), codes_of(table), strict=True):
        np.testing.assert_array_equal(one, other)
    words = ["king", "paris", "water", "1984"]
    np.testing.assert_allclose(back.lookup(words), table.lookup(words), rtol=0, atol=2e-6)
    index = faiss.read_index(str(tmp_path / "t.faiss"))
    found = index.search(table.lookup(words), 10)[1]
    best = table.search(table.lookup(words), 10, "l2")[1]
    assert (found == best).mean() > 0.95


def test_import_prints_one_json_document(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(embstore.compress(rows, tmp_path / "t", "opq13x26", bits=4), tmp_path / "t.faiss")
    capsys.readouterr()
    dest = str(tmp_path / "back")
    monkeypatch.setattr(sys, "argv", ["embstore", "import", str(tmp_path / "t.faiss"), dest, "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert (said["path"], said["method"], said["transforms"], said["keys"]) == (dest, "pq", ["opq"], None)
    assert (said["num_embeddings"], said["embedding_dim"]) == (N, DIM)
    assert said["nbytes"] == embstore.open(dest).nbytes
