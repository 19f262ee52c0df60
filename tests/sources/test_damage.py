"""Truncated and flipped files, and pickles that try to run code: always one named error, never a crash."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import random
import sqlite3
import struct

import numpy as np
import pytest

from embstore.errors import EmbstoreError, SourceError
from embstore.sources import open_source

TABLE = np.random.default_rng(5).normal(size=(23, 32)).astype(np.float32)
WORDS = [f"word{i}" for i in range(23)]


def write_npy(path):
    np.save(path, TABLE)
    return "npy"


def write_npz(path):
    np.savez(path, a=TABLE)
    return "npz"


def write_npz_packed(path):
    np.savez_compressed(path, a=TABLE)
    return "npz"


def write_safetensors(path):
    pytest.importorskip("safetensors.numpy").save_file({"a": TABLE}, path)
    return "safetensors"


def write_arrow(path):
    pa = pytest.importorskip("pyarrow")
    table = arrow_table(pa)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return "arrow"


def write_parquet(path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow_table(pa), path)
    return "parquet"


def arrow_table(pa):
    return pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(TABLE.reshape(-1)), 32), "w": WORDS})


def write_fvecs(path):
    with open(path, "wb") as file:
        file.writelines(struct.pack("<i", 32) + row.tobytes() for row in TABLE)
    return "fvecs"


def write_word2vec(path):
    with open(path, "wb") as file:
        file.write(b"23 32\n")
        file.writelines(w.encode() + b" " + r.tobytes() for w, r in zip(WORDS, TABLE, strict=True))
    return "word2vec-binary"


def write_text_gz(path):
    lines = [w + " " + " ".join(map(str, r)) for w, r in zip(WORDS, TABLE.tolist(), strict=True)]
    with open(path, "wb") as file:
        file.write(gzip.compress("\n".join(["23 32", *lines]).encode()))
    return "text"


def write_magnitude(path):
    os.path.exists(path) and os.unlink(path)
    db = sqlite3.connect(path)
    db.execute(f"CREATE TABLE magnitude (key TEXT, {', '.join(f'dim_{i} INTEGER' for i in range(32))}, magnitude REAL)")
    db.execute("CREATE TABLE magnitude_format (key TEXT, value INTEGER)")
    db.executemany("INSERT INTO magnitude_format VALUES (?, ?)", [("size", 23), ("dim", 32), ("precision", 7)])
    for word, row in zip(WORDS, TABLE, strict=True):
        values = [word, *[int(v * 1e7) for v in row], 1.0]
        db.execute(f"INSERT INTO magnitude VALUES ({','.join('?' * 34)})", values)
    db.commit()
    db.close()
    return "magnitude"


def write_hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["a"] = TABLE
    return "hdf5"


def write_torch(path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.tensor(TABLE)}, path)
    return "torch"


def write_gguf(path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(WORDS)
    writer.add_tensor("token_embd.weight", TABLE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return "gguf"


def write_gensim(path):
    gensim = pytest.importorskip("gensim.models")
    vectors = gensim.KeyedVectors(32)
    vectors.add_vectors(WORDS, TABLE)
    vectors.save(str(path))
    return "gensim"


WRITERS = [f for name, f in sorted(globals().items()) if name.startswith("write_")]


def drain(path, format=None):
    with open_source(path, format=format) as source:
        return np.concatenate([c.rows for c in source.chunks(5)])


@pytest.fixture(params=WRITERS, ids=lambda f: f.__name__.removeprefix("write_"))
def written(request, tmp_path):
    path = tmp_path / (
        "t.npz" if "npz" in request.param.__name__ else "t.npy" if "npy" in request.param.__name__ else "t"
    )
    format = request.param(path)
    np.testing.assert_allclose(drain(path, format), TABLE, atol=2e-7)
    return path, format


def offsets(size):
    inner = random.Random(1).sample(range(1, size), min(60, size - 1))
    return sorted({*range(1, min(size, 24)), *inner, size - 1, size - 2, size - 8})


def test_every_truncation_is_refused(written, tmp_path):
    path, format = written
    data = path.read_bytes()
    cut = tmp_path / "cut"
    for n in offsets(len(data)):
        # A lost last newline or padding byte loses nothing.
        if format == "gguf" and n >= len(data) - 31 and not any(data[n:]):
            continue
        cut.write_bytes(data[:n])
        for given in (format, None):
            with pytest.raises(SourceError) as caught:
                drain(cut, given)
            assert "\n" not in str(caught.value)
            assert str(tmp_path) not in str(caught.value)


def test_flipped_bytes_never_crash(written, tmp_path):
    path, format = written
    data = path.read_bytes()
    flipped = tmp_path / "flipped"
    pick = random.Random(2)
    for at in [*range(min(64, len(data))), *pick.sample(range(len(data)), 60)]:
        changed = bytearray(data)
        changed[at] ^= 1 << pick.randrange(8)
        flipped.write_bytes(changed)
        try:
            drain(flipped, format)
        except EmbstoreError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "name",
    ["fasttext/toy-model.bin", "fasttext/lee_fasttext.bin", "fasttext/lid.176.ftz", "gensim/w2v_3.4.0.mdl",
     "gensim/word_vectors.kv", "gensim/old_keyedvectors_320.dat", "magnitude/vectors.magnitude",
     "word2vec/euclidean_vectors.bin"],
)  # fmt: skip
def test_truncated_real_files(data, name, tmp_path):
    content = data(f"formats/{name}").read_bytes()
    cut = tmp_path / "cut"
    for n in offsets(len(content))[::3]:
        cut.write_bytes(content[:n])
        with pytest.raises(SourceError):
            drain(cut)


@pytest.mark.parametrize("name", ["fasttext/toy-model.bin", "gensim/w2v_3.4.0.mdl", "gensim/word_vectors.kv"])
def test_flipped_real_files_never_crash(data, name, tmp_path):
    content = data(f"formats/{name}").read_bytes()
    pick = random.Random(4)
    for at in pick.sample(range(len(content)), 150):
        changed = bytearray(content)
        changed[at] ^= 1 << pick.randrange(8)
        (tmp_path / "t").write_bytes(changed)
        with contextlib.suppress(EmbstoreError):
            drain(tmp_path / "t")


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, open, bytearray, np.load, np.zeros])
def test_malicious_pickles_are_refused(tmp_path, protocol, function):
    mark = tmp_path / "ran"
    argument = {os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')"}.get(function, "x")
    (tmp_path / "t.kv").write_bytes(pickle.dumps({"vectors": Call(function, argument)}, protocol=protocol))
    for format in ("gensim", None):
        with pytest.raises(SourceError):
            open_source(tmp_path / "t.kv", format=format)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02r\xff\xff\xff\xff.",  # a memo index that would size a table
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",  # bytes of a size that is not there
        b"\x80\x05\x96" + b"\x00" * 4 + b"\x01\x00\x00\x00.",  # a byte array of 4 GiB
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x0f.",  # a frame without end
        b"\x80\x02cgensim.models.keyedvectors\nKeyedVectors.__init__.__globals__\n.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02X\x01\x00\x00\x00xQ.",  # a persistent id
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02]" + b"\x85" * 100_000 + b".",
    ],
)
def test_pickles_that_ask_for_too_much(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(SourceError):
        open_source(tmp_path / "t", format="gensim")


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1048576), }".ljust(118),
        b"1000000000000 300\nthe " + b"\x01" * 2000,
        b"GGUF\x03\x00\x00\x00" + b"\xff" * 16,
        b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b'"a":[1,2,3,4,5]}',
        struct.pack("<ii12id", 793712314, 12, 5, 5, 5, 5, 5, 1, 2, 2, 100, 3, 6, 100, 1e-4)
        + struct.pack("<3iqq", 2**30, 2**30, 0, 1, -1),
    ],
)  # fmt: skip
def test_headers_that_claim_more_than_the_file_has(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(SourceError):
        drain(tmp_path / "t")


def test_resident_memory_stays_small(tmp_path):
    """A 256 MB file read in chunks must not grow the process by more than a part of it."""
    import subprocess
    import sys

    path = tmp_path / "big.npy"
    header = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(500_000, 128))
    header.flush()
    code = (
        "import resource, sys; from embstore.sources import open_source\n"
        "source = open_source(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(2):\n  for chunk in source.chunks(8192): pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 40_000
