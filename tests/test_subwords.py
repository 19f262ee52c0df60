"""Unknown words of a table made from a fastText model: the vectors are fastText's own, bit for bit."""

from __future__ import annotations

import json
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import embstore
from embstore.errors import ConfigError, CorruptionError, FormatError, SourceError
from embstore.format import metadata

fasttext = pytest.importorskip("fasttext")

WORDS = ["unheardofword", "naïveté", "日本語", "x", "", "</s>", "a b", "\U0001f986duck", "ßß", "e\u0301"]


def load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fasttext.FastText._FastText(str(path))


def unknown_words(model: Any, count: int = 500) -> list[str]:
    rng = np.random.default_rng(3)
    letters = [*range(97, 123), *range(0x430, 0x450), *range(0x4E00, 0x4E20)]
    made = ["".join(map(chr, rng.choice(letters, rng.integers(1, 15)))) for _ in range(count)]
    return [word for word in [*WORDS, *made] if model.get_word_id(word) < 0]


def check(table: embstore.Table, model: Any) -> None:
    words = unknown_words(model)
    want = np.stack([model.get_word_vector(word) for word in words])
    rows, known = table.lookup(words, oov="subwords", return_mask=True)
    assert not known.any()
    np.testing.assert_array_equal(rows, want)
    np.testing.assert_array_equal(table.lookup(words[0], oov="subwords"), want[0])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("fasttext") / "corpus.txt"
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(3, 9)))) for _ in range(300)]
    lines = [f"__label__{i % 3} " + " ".join(rng.choice(words, 12)) for i in range(400)]
    path.write_text("\n".join(lines))
    return path


def pruned_model(corpus: Path, cutoff: int, *, qnorm: bool = False, **config: Any) -> Path:
    config = {"dim": 8, "epoch": 2, "bucket": 5000, "minn": 2, "maxn": 4, "minCount": 1} | config
    made = fasttext.train_supervised(str(corpus), thread=1, verbose=0, **config)
    made.quantize(cutoff=cutoff, dsub=2, qnorm=qnorm)
    path = corpus.with_name(f"cut{cutoff}{qnorm}.ftz")
    made.save_model(str(path))
    return path


@pytest.fixture(scope="module")
def pruned(corpus: Path) -> Path:
    return pruned_model(corpus, 900)


@pytest.mark.parametrize("name", ["lid.176.ftz", "lee_fasttext_new.bin", "crime-and-punishment.bin", "toy-model.bin"])
def test_real_models(tmp_path: Path, name: str) -> None:
    root = os.environ.get("EMBSTORE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    path = Path(root) / "formats" / "fasttext" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    check(embstore.compress(path, tmp_path / "t", "float32"), load(path))


@pytest.mark.parametrize("qnorm", [False, True])
def test_a_pruned_model(tmp_path: Path, corpus: Path, qnorm: bool) -> None:
    path = pruned_model(corpus, 900, qnorm=qnorm)
    model = load(path)
    table = embstore.compress(path, tmp_path / "t", "float32")
    assert table.subwords is not None and table.subwords.kept is not None
    assert 0 < table.subwords.rows < table.subwords.buckets
    check(table, model)
    words = model.get_words()
    want = np.stack([model.get_word_vector(word) for word in words])
    np.testing.assert_allclose(table.lookup(words), want, rtol=1e-5, atol=1e-7)
    assert table.verify() == []
    stored = zarr.open_group(tmp_path / "t", mode="r")["subword_buckets"][...]
    np.testing.assert_array_equal(stored, table.subwords.kept)
    # The array is opened again from the file, mapped or not.
    check(embstore.open(tmp_path / "t", mmap=False), model)


def test_a_model_that_kept_no_bucket(tmp_path: Path, corpus: Path) -> None:
    # n-grams too long for any word of the corpus stay untrained, so the words' rows are the largest.
    path = pruned_model(corpus, 280, minn=20, maxn=20, bucket=10, epoch=25, lr=1.0)
    table = embstore.compress(path, tmp_path / "t", "float32")
    assert table.subwords is not None and table.subwords.rows == 0
    assert not table.lookup(["unheard", "of" * 20], oov="subwords").any()
    check(table, load(path))
    assert table.verify() == []


def pairs_of(data: bytes) -> tuple[int, np.ndarray]:
    """Where a model's pruning index lies, and its (bucket, place) pairs."""
    size, _, _, _, pairs = struct.unpack_from("<3iqq", data, 64)
    at = 64 + 28
    for _ in range(size):
        at = data.index(b"\0", at) + 10
    return at, np.frombuffer(data, "<i4", 2 * pairs, at).reshape(-1, 2)


def test_the_index_of_a_model_may_have_any_order(tmp_path: Path, pruned: Path) -> None:
    at, pairs = pairs_of(pruned.read_bytes())
    data = bytearray(pruned.read_bytes())
    mixed = np.random.default_rng(0).permutation(pairs)
    mixed[:, 1] = np.random.default_rng(1).permutation(mixed[:, 1])
    data[at : at + mixed.nbytes] = mixed.tobytes()
    (tmp_path / "mixed.ftz").write_bytes(data)
    check(embstore.compress(tmp_path / "mixed.ftz", tmp_path / "t", "float32"), load(tmp_path / "mixed.ftz"))


@pytest.mark.parametrize(("item", "value"), [(0, -1), (0, 5000), (2, None), (1, -1), (1, 2**30)])
def test_a_damaged_index_of_a_model_is_refused(tmp_path: Path, pruned: Path, item: int, value: int | None) -> None:
    data = bytearray(pruned.read_bytes())
    at, pairs = pairs_of(data)
    struct.pack_into("<i", data, at + 4 * item, int(pairs[0, 0]) if value is None else value)
    (tmp_path / "bad.ftz").write_bytes(data)
    with pytest.raises(SourceError, match=r"bad\.ftz.*pruned buckets"):
        embstore.compress(tmp_path / "bad.ftz", tmp_path / "t")
    assert os.listdir(tmp_path) == ["bad.ftz"]


def rewritten(path: Path, change: Any) -> None:
    group = json.loads((path / "zarr.json").read_text())
    meta = group["attributes"]["embstore"]
    change(meta)
    meta["digest"] = metadata.digest(meta)
    (path / "zarr.json").write_text(json.dumps(group))


def test_a_damaged_index_of_a_table_is_found(tmp_path: Path, pruned: Path) -> None:
    embstore.compress(pruned, tmp_path / "t", "int8")
    file = tmp_path / "t" / "subword_buckets" / "c" / "0"
    whole = file.read_bytes()
    file.write_bytes(whole[4:8] + whole[:4] + whole[8:])
    table = embstore.open(tmp_path / "t")
    assert [fault.array for fault in table.verify()] == ["subword_buckets/c/0"]
    with pytest.raises(CorruptionError, match="subword_buckets of 't' must ascend"):
        table.lookup(["unheard"], oov="subwords")
    file.write_bytes(whole[:-4])
    with pytest.raises(CorruptionError, match="subword_buckets"):
        embstore.open(tmp_path / "t")
    file.write_bytes(whole)
    document = tmp_path / "t" / "subword_buckets" / "zarr.json"
    document.write_text(document.read_text().replace("uint32", "uint64"))
    with pytest.raises(FormatError, match="subword_buckets"):
        embstore.open(tmp_path / "t")
    assert [fault.array for fault in table.verify()] == ["subword_buckets"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("kept", -1), ("kept", 2**33), ("buckets", 3), ("first_row", 2**39), ("minn", 9), ("maxn", "4"), ("kept", 5)],
)
def test_impossible_metadata_is_refused(tmp_path: Path, pruned: Path, field: str, value: Any) -> None:
    embstore.compress(pruned, tmp_path / "t", "int8")
    rewritten(tmp_path / "t", lambda meta: meta["pruned_subwords"].update({field: value}))
    with pytest.raises(FormatError, match=r"pruned_subwords|checksums\.files"):
        embstore.open(tmp_path / "t")


def test_both_kinds_of_subwords_are_refused(tmp_path: Path, pruned: Path) -> None:
    embstore.compress(pruned, tmp_path / "t", "int8")
    rewritten(tmp_path / "t", lambda meta: meta.update(subwords={"minn": 2, "maxn": 4, "buckets": 5, "first_row": 0}))
    with pytest.raises(FormatError, match="pruned_subwords"):
        embstore.open(tmp_path / "t")


def test_a_reader_that_ignores_the_field_serves_all_but_unknown_words(tmp_path: Path, pruned: Path) -> None:
    table = embstore.compress(pruned, tmp_path / "t", "float32")
    words = load(pruned).get_words()
    rewritten(tmp_path / "t", lambda meta: meta.pop("pruned_subwords"))
    older = embstore.open(tmp_path / "t")
    np.testing.assert_array_equal(older.lookup(words), table.lookup(words))
    with pytest.raises(ConfigError, match="subwords"):
        older.lookup(["unheard"], oov="subwords")
