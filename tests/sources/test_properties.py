"""Properties: any key and any number survives, n-grams equal a plain loop, pipes do not hang."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embstore.errors import ConfigError, SourceError
from embstore.sources import open_source
from embstore.sources.fasttext import ngram_buckets

KEY = st.text(st.characters(exclude_characters=" \t\n\r\x0b\x0c\0", exclude_categories=["Cs"]), min_size=1, max_size=9)
# A first key that reads as a header with one more integer is a header, by design; a letter in front avoids that.
TABLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.floats(width=32))


@settings(max_examples=60, deadline=None)
@given(table=TABLES, data=st.data(), header=st.booleans(), zipped=st.booleans(), step=st.integers(1, 13))
def test_text_round_trip(table, data, header, zipped, step):
    keys = ["k" + data.draw(KEY) for _ in table]
    lines = [f"{len(table)} {table.shape[1]}"] if header else []
    lines += [k + " " + " ".join(repr(float(v)) for v in row) for k, row in zip(keys, table, strict=True)]
    content = ("\n".join(lines) + "\n").encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        path.write_bytes(gzip.compress(content) if zipped else content)
        chunks = list(open_source(path, format="text").chunks(step))
    np.testing.assert_array_equal(np.concatenate([c.rows for c in chunks]), table)
    assert [k for c in chunks for k in c.keys] == keys


@settings(max_examples=60, deadline=None)
@given(table=TABLES, data=st.data(), step=st.integers(1, 13), newline=st.booleans())
def test_word2vec_binary_round_trip(table, data, step, newline):
    keys = [data.draw(KEY) for _ in table]
    end = b"\n" if newline else b""
    rows = [k.encode() + b" " + row.tobytes() + end for k, row in zip(keys, table, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        path.write_bytes(f"{len(table)} {table.shape[1]}\n".encode() + b"".join(rows))
        chunks = list(open_source(path, format="word2vec-binary").chunks(step))
    np.testing.assert_array_equal(np.concatenate([c.rows for c in chunks]), table)
    assert [k for c in chunks for k in c.keys] == keys


def plain_ngrams(word: bytes, minn: int, maxn: int, buckets: int) -> list[int]:
    text = f"<{word.decode()}>"
    found = []
    for i in range(len(text)):
        for n in range(1, maxn + 1):
            gram = text[i : i + n]
            if len(gram) < n:
                break
            if n >= minn and not (n == 1 and i in (0, len(text) - 1)):
                h = 2166136261
                for byte in gram.encode():
                    h = ((h ^ ((byte - 256 if byte > 127 else byte) & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
                found.append(h % buckets)
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(KEY.filter(lambda k: k != "</s>"), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 4))
def test_ngrams_equal_a_plain_loop(keys, minn, more):
    words = [k.encode() for k in keys]
    owner, bucket = ngram_buckets(words, minn, minn + more, 1009)
    for i, word in enumerate(words):
        assert bucket[owner == i].tolist() == plain_ngrams(word, minn, minn + more, 1009)
    assert (np.diff(owner) >= 0).all()


def test_end_of_sentence_has_no_ngrams():
    owner, _ = ngram_buckets([b"a", b"</s>", b"b"], 2, 3, 100)
    assert set(owner.tolist()) == {0, 2}
    assert len(ngram_buckets([b"</s>"], 2, 3, 100)[0]) == 0


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="regular file"):
        open_source(tmp_path / "pipe")


def test_arrays_have_no_columns():
    with pytest.raises(ConfigError):
        open_source(np.zeros((2, 2)), key_column="x")


def test_gensim_fasttext_and_doc2vec(tmp_path, read):
    gensim = pytest.importorskip("gensim.models")
    words = [f"word{i}" for i in range(9)]
    for big in (False, True):
        model = gensim.FastText([words] * 3, vector_size=4, min_count=1, epochs=1, workers=1, bucket=50)
        model.save(str(tmp_path / "ft"), sep_limit=1 if big else 10**9)
        rows, keys = read(tmp_path / "ft")
        assert keys == model.wv.index_to_key
        np.testing.assert_allclose(rows[:9], model.wv.vectors, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(rows[9:], model.wv.vectors_ngrams)
        assert open_source(tmp_path / "ft").subwords.first_row == 9
    documents = [gensim.doc2vec.TaggedDocument(words, [f"d{i}"]) for i in range(3)]
    model = gensim.Doc2Vec(documents, vector_size=4, min_count=1, epochs=1, workers=1)
    model.save(str(tmp_path / "d2v"))
    rows, keys = read(tmp_path / "d2v", name="dv")
    assert keys == ["d0", "d1", "d2"]
    np.testing.assert_array_equal(rows, model.dv.vectors)
    np.testing.assert_array_equal(read(tmp_path / "d2v")[0], model.wv.vectors)
