"""Policies for unknown keys; fastText's own vectors against fastText and gensim."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore.errors import ConfigError, IdRangeError
from embstore.oov import OovPolicy, ngram_vector, parse, subword_bags, subword_rows
from embstore.sources.base import Subwords

WORDS = ["unknownish", "café", "日本語", "🦆quack", "a", "ab", "", "x" * 40, "the-quick", "Ünïcödé"]


def test_parse() -> None:
    subwords = Subwords(3, 6, 100, 10)
    assert parse("raise", num_embeddings=3) == OovPolicy("raise")
    assert parse("zeros", num_embeddings=3, key_type="int64").kind == "zeros"
    assert parse(2, num_embeddings=3) == parse(np.int8(2), num_embeddings=3) == OovPolicy("row", 2)
    assert parse("ngrams", num_embeddings=3).kind == "ngrams"
    assert parse("subwords", num_embeddings=110, subwords=subwords).kind == "subwords"
    assert parse(OovPolicy("row", 1), num_embeddings=3).row == 1
    for row in (3, -1):
        with pytest.raises(IdRangeError, match=f"from 0 to 2, found {row}"):
            parse(row, num_embeddings=3)
    for bad in ("nearest", True, 1.5, None):
        with pytest.raises(ConfigError, match="oov must be"):
            parse(bad, num_embeddings=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="string keys"):
        parse("ngrams", num_embeddings=3, key_type="int64")
    with pytest.raises(ConfigError, match="fastText"):
        parse("subwords", num_embeddings=3)


def by_the_docstring(key: str, dim: int, norm: float) -> list[float]:
    m64 = 2**64 - 1
    text = f"<{key}>"
    grams = [text[i : i + n] for n in range(3, 7) for i in range(len(text) - n + 1)] or [text]
    sums = [0] * dim
    for gram in grams:
        h = 0xCBF29CE484222325
        for byte in gram.encode():
            h = (h ^ byte) * 0x100000001B3 & m64
        for j in range(dim):
            z = (h + (j + 1) * 0x9E3779B97F4A7C15) & m64
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & m64
            z = (z ^ z >> 27) * 0x94D049BB133111EB & m64
            z ^= z >> 31
            sums[j] += (z >> 40) - 2**23
    scale = norm / sum(s * s for s in sums) ** 0.5
    return [float(np.float32(s * scale)) for s in sums]


@pytest.mark.parametrize("key", WORDS)
def test_ngram_vectors_follow_the_docstring(key: str) -> None:
    vector = ngram_vector(key, 13, 2.5)
    assert vector.dtype == np.float32 and vector.shape == (13,)
    assert vector.tolist() == by_the_docstring(key, 13, 2.5)
    assert np.linalg.norm(vector) == pytest.approx(2.5, rel=1e-6)


def test_ngram_vectors_never_change() -> None:
    golden = ["0x1.f207780000000p-2", "-0x1.ffca820000000p-3", "0x1.1a604c0000000p-2", "-0x1.94c2ae0000000p-1"]
    assert [float(x).hex() for x in ngram_vector("hello", 4)] == golden


def test_ngram_vectors_of_like_words_are_alike() -> None:
    a, b, c = (ngram_vector(w, 200) for w in ("international", "internationally", "zebra"))
    assert a @ b > 0.6 and abs(a @ c) < 0.3


def test_ngram_vectors_of_long_and_strange_keys() -> None:
    assert np.isfinite(ngram_vector("long" * 20000, 300)).all()
    assert np.isfinite(ngram_vector("\ud800", 5)).all()
    assert ngram_vector("a", 1).shape == (1,)


def test_subword_rows_without_ngrams() -> None:
    assert subword_rows("word", Subwords(0, 0, 10, 5)).tolist() == []
    assert subword_rows("", Subwords(3, 6, 10, 5)).tolist() == []
    assert subword_rows("</s>", Subwords(1, 6, 10, 5)).tolist() == []
    assert len(subword_rows("ab", Subwords(1, 1, 10, 5))) == 2  # without "<" and ">"


def test_subword_bags() -> None:
    subwords = Subwords(3, 4, 50, 7)
    ids, offsets = subword_bags(["hello", "", "ab"], subwords)
    ends = [*offsets[1:].tolist(), len(ids)]
    for word, begin, end in zip(["hello", "", "ab"], offsets, ends, strict=True):
        assert ids[begin:end].tolist() == subword_rows(word, subwords).tolist()
    assert [len(x) for x in subword_bags([], subwords)] == [0, 0]


@pytest.fixture(
    scope="module", params=["lee_fasttext.bin", "lee_fasttext_new.bin", "crime-and-punishment.bin", "toy-model.bin"]
)
def model_file(request: Any) -> Path:
    root = os.environ.get("EMBSTORE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    path = Path(root) / "formats" / "fasttext" / request.param
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def test_subword_rows_are_fasttexts(model_file: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    try:
        model = fasttext.load_model(str(model_file))
    except ValueError as error:
        pytest.skip(f"this fasttext cannot read {model_file.name}: {error}")
    args = model.f.getArgs()
    table = model.get_input_matrix()
    words = set(model.get_words())
    subwords = Subwords(args.minn, args.maxn, args.bucket, len(words))
    checked = 0
    for word in WORDS:
        if word in words:
            continue
        rows = subword_rows(word, subwords)
        assert rows.tolist() == model.get_subwords(word)[1].tolist(), word
        want = model.get_word_vector(word)
        have = table[rows].mean(axis=0) if len(rows) else np.zeros_like(want)
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-7)
        checked += 1
    assert checked > 5


def test_subword_rows_are_gensims(model_file: Path) -> None:
    gensim = pytest.importorskip("gensim.models.fasttext")
    try:
        vectors = gensim.load_facebook_vectors(str(model_file))
    except Exception as error:
        pytest.skip(f"gensim cannot read {model_file.name}: {error}")
    subwords = Subwords(vectors.min_n, vectors.max_n, vectors.bucket, 0)
    for word in WORDS:
        if word in vectors.key_to_index:
            continue
        rows = subword_rows(word, subwords)
        if len(rows) == 0:
            continue  # gensim warns and gives the origin
        np.testing.assert_allclose(vectors.vectors_ngrams[rows].mean(axis=0), vectors[word], rtol=1e-5, atol=1e-7)
