"""Round trips on files made here: dtypes, orders, names, keys, kinds of containers."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from embstore.errors import ConfigError, SourceError, SourceNotFoundError, SourceTypeError
from embstore.sources import open_source
from embstore.sources._source import ArraySource

RNG = np.random.default_rng(3)
TABLE = RNG.normal(size=(41, 6)).astype(np.float32)
WORDS = [f"wörd{i}" for i in range(41)]


def same(got, want):
    rows, keys = got
    np.testing.assert_array_equal(rows, np.asarray(want).astype(np.float32))
    return keys


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", ">f8", "i1", "u1", "<i2", ">i4", "<i8", "<u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_dtypes_and_orders(tmp_path, read, dtype, order):
    array = np.asarray(np.abs(TABLE) * 50, dtype=dtype, order=order)
    np.save(tmp_path / "a.bin", array)
    (tmp_path / "a.bin.npy").rename(tmp_path / "no_extension")
    assert same(read(tmp_path / "no_extension"), array) == []
    assert open_source(tmp_path / "no_extension").format == "npy"


def test_npy_refuses_objects_and_other_ranks(tmp_path):
    np.save(tmp_path / "o.npy", np.array([[1, "x"]], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match=r"pickled"):
        open_source(tmp_path / "o.npy")
    for odd in (np.zeros(3), np.zeros((2, 2, 2)), np.zeros((2, 2), complex), np.zeros((2, 2), bool), np.zeros((0, 3))):
        np.save(tmp_path / "o.npy", odd)
        with pytest.raises(SourceError):
            open_source(tmp_path / "o.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, read, save):
    path = tmp_path / "t.npz"
    save(path, table=TABLE, fortran=np.asfortranarray(TABLE), words=np.array(WORDS), ids=np.arange(41))
    with pytest.raises(SourceError, match=r"2: 'table' 41x6, 'fortran' 41x6"):
        open_source(path)
    with pytest.raises(SourceNotFoundError, match=r"'nope'"):
        open_source(path, name="nope")
    assert same(read(path, name="table", key_column="words"), TABLE) == WORDS
    assert same(read(path, name="fortran", key_column="ids"), TABLE) == list(range(41))


def test_safetensors_by_name_and_bfloat16(tmp_path, read):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.tensor(TABLE).bfloat16(), "b": torch.tensor(TABLE).double(), "ids": torch.arange(41)}
    library.save_file(tensors, tmp_path / "t")
    with pytest.raises(SourceError, match=r"pass name="):
        open_source(tmp_path / "t")
    same(read(tmp_path / "t", name="a"), tensors["a"].float().numpy())
    assert same(read(tmp_path / "t", name="b", key_column="ids"), TABLE) == list(range(41))


@pytest.mark.parametrize("kind", ["parquet", "file", "stream", "feather"])
@pytest.mark.parametrize("fixed", [True, False])
def test_arrow(tmp_path, read, kind, fixed):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.feather
    import pyarrow.parquet

    flat = pa.array(TABLE.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, 6) if fixed else pa.array(TABLE.tolist(), pa.list_(pa.float32()))
    table = pa.table({"vector": column, "word": WORDS, "id": np.arange(41)})
    path = tmp_path / "t"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=13)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, path, chunksize=9)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    assert same(read(path), TABLE) == WORDS
    assert same(read(path, name="vector", key_column="id"), TABLE) == list(range(41))
    assert same(read(table), TABLE) == WORDS


@pytest.mark.parametrize("row", [None, [1.0], [1.0, None]])
def test_arrow_rows_that_do_not_fit_are_named(row):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"v": pa.array([[1.0, 2.0]] * 5 + [row], pa.list_(pa.float64()))})
    with pytest.raises(SourceError, match=r"row 5"):
        list(open_source(table).chunks(2))


def test_vecs_and_mixed_width(tmp_path, read):
    for suffix, dtype in (("fvecs", "<f4"), ("bvecs", "u1"), ("ivecs", "<i4")):
        array = (np.abs(TABLE) * 20).astype(dtype)
        data = b"".join(struct.pack("<i", 6) + row.tobytes() for row in array)
        path = tmp_path / f"t.{suffix}"
        path.write_bytes(data)
        same(read(path), array)
        assert open_source(path).format == suffix
        wrong = bytearray(data)
        wrong[20 * (len(data) // 41)] = 5
        path.write_bytes(wrong)
        with pytest.raises(SourceError, match=r"5 in row 20"):
            list(open_source(path, format=suffix).chunks(7))


def test_raw(tmp_path, read):
    path = tmp_path / "t.raw"
    path.write_bytes(TABLE.astype(">f2").tobytes())
    same(read(path, dtype=">f2", shape=(-1, 6)), TABLE.astype(np.float16))
    path.write_bytes((TABLE.view(np.uint32) >> 16).astype("<u2").tobytes())
    want = (TABLE.view(np.uint32) & 0xFFFF0000).view(np.float32)
    same(read(path, dtype="bfloat16", shape=(41, 6)), want)
    with pytest.raises(SourceError, match=r"bytes"):
        open_source(path, dtype="f4", shape=(41, 6))
    with pytest.raises(ConfigError):
        open_source(path, dtype="f4")


def text(header: bool, end: str = "\n") -> str:
    lines = [f"{len(WORDS)} 6"] if header else []
    lines += [f"{w} " + " ".join(repr(float(v)) for v in row) for w, row in zip(WORDS, TABLE, strict=True)]
    return end.join(lines) + end


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
def test_text(tmp_path, read, header, zipped, end):
    data = text(header, end).encode()
    (tmp_path / "t").write_bytes(gzip.compress(data) if zipped else data)
    assert same(read(tmp_path / "t"), TABLE) == WORDS


def test_text_keys_with_blanks_and_odd_numbers(tmp_path, read):
    (tmp_path / "t").write_text(
        "a 1 2 3\n. . . +1 2e0 -3\nat name@x.com 1 nan inf\nnb\u00a0sp\t1\t2\t3\n\u2028 1 2 3\n"
    )
    rows, keys = read(tmp_path / "t")
    assert keys == ["a", ". . .", "at name@x.com", "nb\u00a0sp", "\u2028"]
    np.testing.assert_array_equal(rows, [[1, 2, 3], [1, 2, -3], [1, np.nan, np.inf], [1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("a 1 2\nb 1 2 3\n", "3 values in row 1"),
        ("a 1 2\nb 1\n", "1 values in row 1"),
        ("a 1 2\nb 1 x\n", "'x' in row 1"),
        ("3 2\na 1 2\nb 1 2\n", "found 2"),
        ("1 2\na 1 2\nb 1 2\n", "more lines"),
        ("999999999 2\na 1 2\n", "truncated"),
    ],
)
def test_bad_text(tmp_path, content, found):
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(SourceError, match=found):
        list(open_source(tmp_path / "t.txt").chunks(10))


def test_hdf5(tmp_path, read):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "t", "w") as file:
        file["deep/table"] = TABLE.astype(">f8")
        file["words"] = WORDS
        file["ids"] = np.arange(41)
    assert same(read(tmp_path / "t", key_column="words"), TABLE) == WORDS
    assert same(read(tmp_path / "t", key_column="ids"), TABLE) == list(range(41))


@pytest.mark.parametrize("legacy", [False, True])
def test_torch(tmp_path, read, legacy):
    torch = pytest.importorskip("torch")
    module = torch.nn.EmbeddingBag(41, 6)
    state = {"model": module.state_dict(), "step": 3, "bias": torch.zeros(6)}
    torch.save(state, tmp_path / "t", _use_new_zipfile_serialization=not legacy)
    same(read(tmp_path / "t"), module.weight.detach().numpy())
    same(read(tmp_path / "t", name="model.weight"), module.weight.detach().numpy())
    same(read(module.weight), module.weight.detach().numpy())
    half = torch.tensor(TABLE).bfloat16()
    same(read(half), half.float().numpy())


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    mark = tmp_path / "ran"
    torch.save({"x": Evil(str(mark))}, tmp_path / "t")
    with pytest.raises(SourceError):
        open_source(tmp_path / "t")
    assert not mark.exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path, read, version):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "t", mode="w", zarr_format=version)
    group.create_array("table", data=TABLE, chunks=(10, 6))
    group.create_array("ids", data=np.arange(41))
    assert same(read(tmp_path / "t", key_column="ids"), TABLE) == list(range(41))
    same(read(group["table"]), TABLE)
    same(read(tmp_path / "t" / "table"), TABLE)


def test_zarr_chunks_that_claim_too_much_are_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "t", shape=(10**9, 300), chunks=(10**9, 300), dtype="f4")
    with pytest.raises(SourceError, match=r"4 GiB"):
        open_source(tmp_path / "t")


def test_zarr_with_a_pickle_filter_is_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "t", data=TABLE, zarr_format=2)
    meta = tmp_path / "t" / ".zarray"
    import json

    fields = json.loads(meta.read_text())
    fields["filters"] = [{"id": "pickle", "protocol": 2}]
    meta.write_text(json.dumps(fields))
    with pytest.raises(SourceError):
        list(open_source(tmp_path / "t").chunks(10))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_gguf(tmp_path, read, kind):
    gguf = pytest.importorskip("gguf")
    from gguf.quants import dequantize, quantize

    table = RNG.normal(size=(41, 64)).astype(np.float32)
    known = gguf.GGMLQuantizationType[kind]
    data = quantize(table, known)
    writer = gguf.GGUFWriter(tmp_path / "t", "llama")
    writer.add_token_list(WORDS[:40])
    writer.add_tensor("token_embd.weight", data, raw_dtype=known)
    writer.add_tensor("other.weight", table)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rows, keys = read(tmp_path / "t")
    assert keys == WORDS[:40]
    np.testing.assert_array_equal(rows, dequantize(data, known))
    np.testing.assert_array_equal(read(tmp_path / "t", name="other.weight")[0], table)


@pytest.mark.parametrize("big", [False, True])
def test_gensim_with_side_files(tmp_path, read, big):
    gensim = pytest.importorskip("gensim.models")
    vectors = gensim.KeyedVectors(6)
    vectors.add_vectors(WORDS, TABLE)
    vectors.save(str(tmp_path / "t.kv"), sep_limit=1 if big else 10**9)
    assert (tmp_path / "t.kv.vectors.npy").exists() == big
    assert same(read(tmp_path / "t.kv"), TABLE) == WORDS
    model = gensim.Word2Vec([WORDS] * 3, vector_size=4, min_count=1, epochs=1, workers=1)
    model.save(str(tmp_path / "m"), sep_limit=1 if big else 10**9)
    assert same(read(tmp_path / "m"), model.wv.vectors) == model.wv.index_to_key


def test_word2vec_binary_as_gensim_writes_it(tmp_path, read):
    gensim = pytest.importorskip("gensim.models")
    vectors = gensim.KeyedVectors(6)
    vectors.add_vectors(WORDS, TABLE)
    vectors.save_word2vec_format(str(tmp_path / "t"), binary=True)
    assert same(read(tmp_path / "t"), TABLE) == WORDS
    data = b"41 6\n" + b"".join(w.encode() + b" " + r.tobytes() + b"\n" for w, r in zip(WORDS, TABLE, strict=True))
    (tmp_path / "t").write_bytes(data)
    assert same(read(tmp_path / "t"), TABLE) == WORDS


def test_keys_of_every_kind_replace_those_of_the_source(tmp_path, read):
    pa = pytest.importorskip("pyarrow")
    (tmp_path / "k").write_text("\n".join(WORDS))
    (tmp_path / "k.gz").write_bytes(gzip.compress("\n".join(WORDS).encode() + b"\n"))
    for keys in (WORDS, tuple(WORDS), np.array(WORDS), pa.array(WORDS), tmp_path / "k", str(tmp_path / "k.gz")):
        assert same(read(TABLE, keys=keys), TABLE) == WORDS
    for ints in (list(range(41)), np.arange(41, dtype=np.uint8), pa.array(range(41))):
        assert same(read(TABLE, keys=ints), TABLE) == list(range(41))
    (tmp_path / "t").write_text(text(True))
    assert same(read(tmp_path / "t", keys=list(range(41))), TABLE) == list(range(41))
    for wrong in (WORDS[:-1], np.arange(42)):
        with pytest.raises(SourceError, match=r"41 keys"):
            open_source(TABLE, keys=wrong)
    for odd in ([1.5] * 41, ["a"] * 40 + [1], 3):
        with pytest.raises(SourceTypeError):
            open_source(TABLE, keys=odd)
    with pytest.raises(SourceError, match=r"null in row 1"):
        open_source(TABLE, keys=pa.array(["a", None]))


def test_fingerprints_follow_content(tmp_path):
    first = open_source(TABLE).fingerprint
    assert first == open_source(TABLE.copy()).fingerprint
    assert first != open_source(TABLE + 1).fingerprint
    assert first != open_source(TABLE, keys=WORDS).fingerprint
    assert open_source(TABLE, keys=WORDS).fingerprint != open_source(TABLE, keys=WORDS[::-1]).fingerprint
    np.savez(tmp_path / "t.npz", a=TABLE, b=TABLE + 1)
    assert len({open_source(tmp_path / "t.npz", name=n).fingerprint for n in "ab"}) == 2


def test_wrong_arguments(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"nothing\.npy"):
        open_source(tmp_path / "nothing.npy")
    with pytest.raises(SourceNotFoundError):
        open_source(tmp_path)
    with pytest.raises(SourceTypeError):
        open_source(object())
    with pytest.raises(ConfigError, match=r"format"):
        open_source(TABLE, format="jpeg")
    with pytest.raises(ConfigError):
        list(ArraySource(TABLE).chunks(0))
    with pytest.raises(ConfigError):
        list(ArraySource(TABLE).chunks(1, start=42))
    np.save(tmp_path / "t.npy", TABLE)
    with pytest.raises(ConfigError, match=r"name"):
        open_source(tmp_path / "t.npy", name="x")


def test_content_that_is_no_source(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("readme.txt", "hello")
    for content in (
        b"",
        b"\n",
        b"hello world",
        b"\x00" * 100,
        packed.getvalue(),
        gzip.compress(b"\x00" * 99),
        b"<html>",
    ):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(SourceError):
            open_source(tmp_path / "t")
