"""FAISS indexes beside a table: built, searched, reranked, and refused where they do not belong."""

import json
import os
import shutil

import numpy as np
import pytest
from truth import METRICS, brute_force

import embstore
from embstore import errors
from embstore.search import build_index
from embstore.testing import make_rows

faiss = pytest.importorskip("faiss")
N, DIM = 4000, 32


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """FAISS's threads wait by spinning, which on a busy machine makes small jobs take minutes."""
    embstore.set_num_threads(1)
    yield
    embstore.set_num_threads(None)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((40, DIM))[rng.integers(0, 40, N)] + 0.5 * rng.standard_normal((N, DIM))).astype("f4")


@pytest.fixture(scope="module")
def built(rows, tmp_path_factory):
    """A table with an index for each test that only reads."""
    table = embstore.compress(rows, tmp_path_factory.mktemp("t") / "t", "int8")
    build_index(table, "IVF32,PQ16x4", "cosine")
    return table


@pytest.fixture
def table(built, tmp_path):
    shutil.copytree(built.path, tmp_path / "t")
    return embstore.open(tmp_path / "t")


FACTORIES = [
    "Flat",
    "IVF16,Flat",
    "IVF16,PQ16x4",
    "HNSW32",
    "HNSW32,PQ16x4",
    "IVF64_HNSW32,Flat",
    "SQ8",
    "PCA16,IVF16,SQ8",
]
# Graphs of inner products have no such recall.
PAIRS = [(f, m) for f in FACTORIES for m in METRICS if not (f.startswith("HNSW") and m == "ip")]
PAIRS += [("OPQ16,IVF64,PQ16x4", "ip"), ("OPQ16,IVF64_HNSW32,PQ16x4", "cosine")]  # slow to train


@pytest.mark.parametrize(("factory", "metric"), PAIRS)
def test_through_an_index_as_by_a_scan(factory, metric, rows, tmp_path):
    table = embstore.compress(rows, tmp_path / "t", "int8")
    seen = []
    taken = 600 if "OPQ" in factory else None
    index = build_index(table, factory, metric, name="one", training_rows=taken, progress=lambda *at: seen.append(at))
    assert (index.factory, index.metric, index.faiss.ntotal) == (factory, metric, N) and seen[-1] == (N, N)
    queries = rows[:50] + np.float32(0.1)
    nprobe = next((lists for lists in (16, 64) if f"IVF{lists}" in factory), None)
    scores, ids = table.search(queries, 10, metric, index="one", nprobe=nprobe, rerank_k=400)
    exact_scores, exact_ids = table.search(queries, 10, metric)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), exact_ids.tolist(), strict=True)]) > 9.5
    same = ids == exact_ids
    assert np.array_equal(scores[same], exact_scores[same])
    assert table.search(queries[0], 3, metric, index="one")[1].shape == (3,)


def test_reranks_from_the_original_and_filters(built, rows):
    queries = rows[:40]
    truth = np.argsort(-brute_force(rows, queries, "cosine"), axis=1)[:, :10]
    _, ids = built.search(queries, 10, index="default", nprobe=32, rerank=rows, rerank_k=1000)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]) > 9.9
    allowed = np.arange(N) % 3 == 1
    _, ids = built.search(queries, 10, index="default", nprobe=32, filter=allowed, rerank_k=1000)
    assert (ids % 3 == 1).all()
    queries = np.random.default_rng(1).standard_normal((40, DIM))  # far from every list
    _, narrow = built.search(queries, 10, index="default", nprobe=1)
    _, wide = built.search(queries, 10, index="default", nprobe=32)
    assert not np.array_equal(narrow, wide)


def test_the_same_seed_gives_the_same_index_from_blocks_of_any_size(rows, tmp_path, monkeypatch):
    from embstore.search import faiss_index

    files = []
    for block in (32 << 20, 1000):
        monkeypatch.setattr(faiss_index, "BLOCK_BYTES", block)
        table = embstore.compress(rows, tmp_path / str(block), "int8")
        build_index(table, "IVF8,PQ8x4", training_rows=2000)
        files.append((tmp_path / str(block) / "indexes" / "default" / "index.faiss").read_bytes())
    assert files[0] == files[1]


def test_rows_that_are_not_finite_are_never_found(rows, tmp_path):
    rows = rows[:500].copy()
    rows[7] = np.nan
    table = embstore.compress(rows, tmp_path / "t", "float32", nonfinite="keep")
    build_index(table, "IVF4,Flat", "ip")
    _, ids = table.search(rows[:5], 500, "ip", index="default", nprobe=4, rerank_k=500)
    assert 7 not in ids and (ids[:, -1] == -1).all()


def test_overwriting(table, rows):
    with pytest.raises(errors.DestinationExistsError, match="exists already"):
        build_index(table, "Flat")
    assert build_index(table, "Flat", overwrite=True).factory == "Flat"
    assert os.listdir(os.path.join(table.path, "indexes")) == ["default"] and table.verify() == []
    again = embstore.compress(rows[::-1].copy(), table.path, "int8", overwrite=True)
    with pytest.raises(errors.IndexNotFoundError, match="found none"):
        again.index()


def sidecar(of, changes):
    file = os.path.join(of.path, "indexes", "default", "index.json")
    with open(file) as stream:
        said = json.load(stream)
    with open(file, "w") as stream:
        json.dump(said | changes, stream)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"table": "sha256:0"}, errors.FormatError, "built from another table"),
        ({"format_version": 2}, errors.FormatError, "format version 1"),
        ({"nbytes": 17}, errors.CorruptionError, "must have 17 bytes"),
        ({"crc32c": 1}, errors.CorruptionError, "checksum"),
        ({"crc32c": "1"}, errors.FormatError, "does not have the fields"),
        ({"num_embeddings": 5}, errors.FormatError, "does not have the fields"),
        ({"metric": "l2"}, errors.CorruptionError, "for l2"),
        ({"metric": "hamming"}, errors.FormatError, "does not have the fields"),
    ],
)
def test_what_the_sidecar_says_is_checked(changes, kind, text, table):
    sidecar(table, changes)
    with pytest.raises(kind, match=text):
        table.index()


def replace(table, index):
    """Another FAISS index in place of the table's, with a sidecar that fits its bytes."""
    from embstore.format.verify import file_crc

    file = os.path.join(table.path, "indexes", "default", "index.faiss")
    if isinstance(index, bytes):
        with open(file, "wb") as stream:
            stream.write(index)
    else:
        faiss.write_index(index, file)
    sidecar(table, {"nbytes": os.stat(file).st_size, "crc32c": file_crc(file)})


def test_foreign_index_files_are_refused(table):
    replace(table, faiss.IndexFlatIP(DIM))
    with pytest.raises(errors.CorruptionError, match="found 0 x 32"):
        table.index()
    replace(table, faiss.IndexFlatIP(DIM + 1))
    with pytest.raises(errors.CorruptionError, match="found 0 x 33"):
        table.index()
    replace(table, b"IxFInonsense")
    with pytest.raises(errors.CorruptionError, match="could not read"):
        table.index()
    os.unlink(os.path.join(table.path, "indexes", "default", "index.faiss"))
    with pytest.raises(errors.CorruptionError, match="missing"):
        table.index()


@pytest.mark.parametrize(
    ("ask", "kind", "text"),
    [
        (lambda t: build_index(t, "IVF99999,Flat", name="x"), errors.ConfigError, "trained on 4000"),
        (lambda t: build_index(t, "nonsense", name="x"), errors.ConfigError, "FAISS could not build 'nonsense'"),
        (lambda t: build_index(t, "HNSW8,PQ8x4", "ip", name="x"), errors.ConfigError, "for 'l2' and 'cosine' only"),
        (lambda t: build_index(t, name="../x"), errors.ConfigError, "index name must be"),
        (lambda t: build_index(t, "Flat", "hamming", name="x"), errors.ConfigError, "metric must be"),
        (lambda t: build_index(t, name="x", training_rows=0), errors.ConfigError, "training_rows"),
        (lambda t: t.index("other"), errors.IndexNotFoundError, "found 'default'"),
        (lambda t: t.search(np.ones(DIM), 3, "l2", index="default"), errors.ConfigError, "built for 'cosine'"),
        (lambda t: t.search(np.ones(DIM), 3, index="default", nprobe=33), errors.ConfigError, "from 1 to the 32 lists"),
        (lambda t: t.search(np.ones(DIM), 3, nprobe=3), errors.ConfigError, "nprobe needs an index"),
    ],
)
def test_refused(ask, kind, text, built):
    with pytest.raises(kind, match=text):
        ask(built)
    assert os.listdir(os.path.join(built.path, "indexes")) == ["default"]


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this faiss knows GPUs")
def test_a_gpu_that_is_not_there(built):
    with pytest.raises(errors.MissingDependencyError, match="gpu=True needs"):
        build_index(built, "Flat", name="x", gpu=True)


class GpuIndex:
    """What the tests see of an index on a GPU: it trains, adds and searches, without a selector, and is not written."""

    most = 1 << 60

    def __init__(self, index):
        self.index = index

    @property
    def is_trained(self):
        return self.index.is_trained

    def train(self, rows):
        self.index.train(rows)

    def add(self, rows):
        if self.index.ntotal + len(rows) > self.most:
            raise RuntimeError("Error in add: Error: StandardGpuResources: alloc fail")
        self.index.add(rows)

    def search(self, queries, k, params=None):
        assert params is None or params.sel is None  # FAISS's own overlooks it
        return self.index.search(queries, k, params=params)


class GpuIndexIVF(GpuIndex):
    @property
    def nlist(self):
        return faiss.downcast_index(self.index).nlist


@pytest.fixture
def gpu(monkeypatch):
    """A faiss that has one GPU; the list of what was done on it."""
    done = []

    def to_gpu(resources, device, index):
        assert (resources, device) == ("resources", 0)
        if isinstance(faiss.downcast_index(index), faiss.IndexHNSW):
            raise RuntimeError("Error in to_gpu: Error: not implemented on the GPU")
        if isinstance(faiss.downcast_index(index), faiss.IndexPQ):  # as FAISS 1.8 does
            return faiss.clone_index(index)
        done.append("to GPU")
        is_ivf = isinstance(faiss.downcast_index(index), faiss.IndexIVF)
        return (GpuIndexIVF if is_ivf else GpuIndex)(index)

    def to_cpu(index):
        done.append(f"{index.index.ntotal} back")
        return index.index

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    downcast = faiss.downcast_index
    monkeypatch.setattr(
        faiss, "downcast_index", lambda index: index if isinstance(index, GpuIndex) else downcast(index)
    )
    monkeypatch.setattr(faiss, "GpuIndex", GpuIndex, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexIVF", GpuIndexIVF, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", to_cpu, raising=False)
    return done


@pytest.mark.parametrize("factory", ["IVF16,Flat", "PCA16,IVF16,SQ8"])
def test_a_gpu_that_is_there_is_used_by_the_same_call(factory, table, gpu):
    build_index(table, factory, name="own", gpu=False)
    assert gpu == []
    build_index(table, factory, name="lent")
    build_index(table, factory, name="asked", gpu=True)
    assert gpu == ["to GPU", f"{N} back"] * 2
    queries = table.lookup(range(5))
    found = [table.search(queries, 10, index=name, nprobe=16)[1] for name in ("own", "lent", "asked")]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_what_a_gpu_cannot_build_is_built_without_it(table, gpu):
    assert build_index(table, "HNSW16", name="graph").faiss.ntotal == N
    assert gpu == []
    with pytest.raises(errors.ConfigError, match="not implemented on the GPU"):
        build_index(table, "HNSW16", name="other", gpu=True)


def test_an_index_that_faiss_left_on_the_cpu_is_none_of_a_gpu(table, gpu):
    assert build_index(table, "PQ4x4", name="codes").faiss.ntotal == N
    with pytest.raises(errors.ConfigError, match=r"index type is not implemented on GPU; .* leave gpu out"):
        build_index(table, "PQ4x4", name="other", gpu=True)
    assert gpu == []


def test_a_gpu_without_room_leaves_the_index_to_the_cpu(table, gpu, monkeypatch):
    monkeypatch.setattr(GpuIndex, "most", N - 1)
    assert build_index(table, "IVF16,Flat", name="lists").faiss.ntotal == N
    with pytest.raises(errors.ConfigError, match=r"alloc fail; .* leave gpu out"):
        build_index(table, "IVF16,Flat", name="other", gpu=True)
    assert gpu == ["to GPU"] * 2


def test_a_gpu_build_without_gpus_stays_where_it_is(table, gpu, monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    build_index(table, "Flat", name="flat")
    assert gpu == []


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_searched_through_on_a_gpu_as_on_the_host(factory, table, gpu):
    build_index(table, factory, name="one", gpu=False)
    there = table.index("one").to("cuda:0")
    assert gpu == ["to GPU"]
    queries = table.lookup(range(20)) + np.float32(0.1)
    nprobe = 4 if "IVF" in factory else None
    for found, want in zip(*(table.search(queries, 10, index=i, nprobe=nprobe) for i in (there, "one")), strict=True):
        assert np.array_equal(found, want)
    with pytest.raises(errors.ConfigError, match="knows no filter"):
        table.search(queries, 10, index=there, filter=[1, 2, 3])
    if nprobe:
        with pytest.raises(errors.ConfigError, match="from 1 to the 16 lists"):
            table.search(queries, 10, index=there, nprobe=17)


def test_indexes_that_are_not_for_a_gpu(built, table, gpu, tmp_path):
    build_index(table, "HNSW16", name="graph")
    with pytest.raises(errors.ConfigError, match=r"could not take index 'graph' \(HNSW16\) to cuda: .*on the host"):
        table.index("graph").to("cuda")
    with pytest.raises(errors.DeviceError, match="FAISS has 1 GPUs, found 'cuda:1'"):
        table.index("graph").to("cuda:1")
    with pytest.raises(errors.DeviceError, match="on the host to begin with"):
        table.index("graph").to("cpu")


def test_an_index_of_another_table(built, rows, tmp_path):
    other = embstore.compress(rows[:100], tmp_path / "other", "int8")
    with pytest.raises(errors.ConfigError, match="'default' was built from another table"):
        other.search(np.ones(DIM), 3, index=built.index())


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this faiss knows GPUs")
def test_an_index_where_no_gpu_is(built):
    with pytest.raises(errors.MissingDependencyError, match="needs one and a faiss built for it"):
        built.index().to("cuda")


def test_nprobe_is_for_lists(table):
    build_index(table, "Flat", name="flat")
    with pytest.raises(errors.ConfigError, match="nprobe needs an IVF index"):
        table.search(np.ones(DIM), 3, index="flat", nprobe=3)


def test_without_faiss(table, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(errors.MissingDependencyError, match=r"pip install embstore\[faiss\]"):
        table.index()
    with pytest.raises(errors.MissingDependencyError, match=r"pip install embstore\[faiss\]"):
        build_index(embstore.compress(make_rows(5, 4, hostile=False), table.path + "2"), "Flat")
