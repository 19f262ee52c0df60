"""Questions to words, against gensim's KeyedVectors over the same float32 vectors."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import errors, sources
from embstore.sources.base import Subwords
from embstore.testing import make_rows

DATA = Path(os.environ.get("EMBSTORE_TEST_DATA", "../shared/data"))
QUESTIONS = [
    (["king", "woman"], ["man"]),
    ("frog", ()),
    (["paris", "germany"], ["france"]),
    (["car"], ["road", "wheel"]),
    (["one", "two", "three", "one"], []),
]


def glove():
    """GloVe words and rows, 5,000 of them, or drawn ones where the data is not at hand."""
    file = DATA / "words" / "glove.6B.50d.top100k.npy"
    if not file.exists():
        return [f"w{i}" for i in range(5000)], make_rows(5000, 50, hostile=False)
    with gzip.open(DATA / "words" / "glove.6B.50d.top100k.vocab.txt.gz", "rt", encoding="utf-8") as lines:
        words = [line.rstrip("\n") for line in lines]
    return words[:20000], np.load(file)[:20000]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    gensim = pytest.importorskip("gensim.models.keyedvectors")
    words, rows = glove()
    vectors = gensim.KeyedVectors(rows.shape[1])
    vectors.add_vectors(words, rows)
    return embstore.compress(rows, tmp_path_factory.mktemp("t") / "t", "float32", keys=words), vectors


def known(vectors, keys):
    """The question in words there are."""
    names = [keys] if isinstance(keys, str) else list(keys)
    return [name if name in vectors else vectors.index_to_key[i + 7] for i, name in enumerate(names)]


@pytest.mark.parametrize(("positive", "negative"), QUESTIONS, ids=str)
def test_most_similar_is_gensims(positive, negative, both):
    table, vectors = both
    plus, minus = known(vectors, positive), known(vectors, negative)
    found, expected = table.most_similar(plus, minus, topn=25), vectors.most_similar(plus, minus, topn=25)
    assert [key for key, _ in found] == [key for key, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-5)


def test_a_vector_may_stand_for_a_key(both):
    table, vectors = both
    a, b = vectors.index_to_key[100], vectors.index_to_key[200]
    found = table.most_similar([vectors[a], b], topn=5)
    assert [k for k, _ in found] == [k for k, _ in vectors.most_similar([vectors[a], b], topn=5)]
    assert table.most_similar(vectors[a], topn=1)[0][0] == a


def test_the_others_are_gensims(both):
    table, vectors = both
    a, b, c = known(vectors, ["man", "king", "woman"])
    assert table.analogy(a, b, c, topn=5) == table.most_similar([b, c], [a], topn=5)
    for keys in (["breakfast", "cereal", "dinner", "lunch"], ["cat", "dog", "mouse", "senate"]):
        given = known(vectors, keys)
        assert table.doesnt_match(given) == vectors.doesnt_match(given)
        assert table.similarity(*given[:2]) == pytest.approx(vectors.similarity(*given[:2]), abs=1e-6)


def test_only_keyed_rows_are_found_and_integer_keys_are_keys(tmp_path):
    rows = make_rows(60, 8, hostile=False)
    rows[50] = rows[0] * 2  # without a key
    source = sources.open_source(rows, keys=np.arange(1000, 1060))
    source.num_keys, source.subwords = 20, Subwords(minn=3, maxn=6, buckets=40, first_row=20)
    table = embstore.compress(source, tmp_path / "t", "float32")
    assert len(table.keys) == 20 and table.search(rows[0], 2)[1].tolist() == [0, 50]
    found = table.most_similar(1000, topn=100)
    assert sorted(key for key, _ in found) == list(range(1001, 1020))
    assert table.similarity(1000, 1000) == pytest.approx(1)
    assert table.most_similar([], [1000], topn=1)[0][0] == found[-1][0]


def test_zero_vectors_are_no_trouble(tmp_path):
    rows = np.eye(3, 4, dtype=np.float32)
    rows[2] = 0
    table = embstore.compress(rows, tmp_path / "t", "float32", keys=["a", "b", "zero"])
    assert table.similarity("a", "zero") == 0
    assert {key for key, _ in table.most_similar("zero")} == {"a", "b"}


@pytest.mark.parametrize(
    ("ask", "kind", "text"),
    [
        (lambda t: t.most_similar("nothing"), errors.UnknownKeyError, "nothing"),
        (lambda t: t.most_similar([], []), errors.ConfigError, "at least one key"),
        (lambda t: t.most_similar("a", topn=0), errors.ConfigError, "topn must be"),
        (lambda t: t.most_similar(np.zeros(3)), errors.ShapeError, "must have shape"),
        (lambda t: t.similarity("a", "nothing"), errors.UnknownKeyError, "nothing"),
        (lambda t: t.doesnt_match(["a"]), errors.ConfigError, "at least two keys"),
        (lambda t: t.doesnt_match("ab"), errors.ConfigError, "at least two keys"),
    ],
)
def test_refused(ask, kind, text, tmp_path):
    table = embstore.compress(np.eye(2, 4, dtype=np.float32), tmp_path / "t", "float32", keys=["a", "b"])
    with pytest.raises(kind, match=text):
        ask(table)


def test_a_table_without_keys_says_so(tmp_path):
    table = embstore.compress(np.eye(2, 4, dtype=np.float32), tmp_path / "t", "float32")
    for ask in (table.most_similar, table.doesnt_match, lambda key: table.similarity(key, key)):
        with pytest.raises(errors.NoKeysError, match="needs a table with keys"):
            ask("a")
