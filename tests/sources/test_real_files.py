"""Every real file of the shared data, against the library that is its oracle."""

from __future__ import annotations

import gzip
import json
import warnings

import numpy as np
import pytest

from embstore.errors import SourceError, SourceNotFoundError
from embstore.sources import open_source


@pytest.mark.parametrize("name", ["crime-and-punishment", "lee_fasttext", "toy-model"])
def test_fasttext_vec(data, read, name):
    gensim = pytest.importorskip("gensim.models")
    path = data(f"formats/fasttext/{name}.vec")
    want = gensim.KeyedVectors.load_word2vec_format(path)
    rows, keys = read(path)
    assert keys == want.index_to_key
    np.testing.assert_array_equal(rows, want.vectors)


@pytest.mark.parametrize("name", ["crime-and-punishment.bin", "lee_fasttext_new.bin", "toy-model.bin", "lid.176.ftz"])
def test_fasttext_bin_is_what_fasttext_says(data, read, name):
    fasttext = pytest.importorskip("fasttext")
    path = data(f"formats/fasttext/{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fasttext.FastText._FastText(str(path))
    rows, keys = read(path)
    assert keys == model.get_words()
    want = np.array([model.f.getWordId(k) for k in keys])
    assert (want == np.arange(len(keys))).all()
    vectors = np.stack([vector(model, k) for k in keys])
    np.testing.assert_allclose(rows[: len(keys)], vectors, rtol=1e-6, atol=1e-7)
    source = open_source(path)
    if source.subwords is not None:
        first = source.subwords.first_row
        stored = input_rows(model, first, len(rows))
        if source.subwords.kept is None:
            np.testing.assert_array_equal(rows[first:], stored)
        else:  # by bucket here, in any order there
            assert sorted(map(bytes, rows[first:])) == sorted(map(bytes, stored))


def vector(model, word):
    import fasttext_pybind

    out = fasttext_pybind.Vector(model.get_dimension())
    model.f.getWordVector(out, word)
    return np.array(out)


def input_rows(model, first, stop):
    import fasttext_pybind

    out = fasttext_pybind.Vector(model.get_dimension())
    rows = []
    for i in range(first, stop):
        model.f.getInputVector(out, i)
        rows.append(np.array(out))
    return np.stack(rows)


def test_out_of_vocabulary_words_from_the_kept_buckets(data, read):
    pytest.importorskip("fasttext")
    import fasttext

    from embstore.sources.fasttext import ngram_buckets

    path = data("formats/fasttext/lee_fasttext_new.bin")
    model = fasttext.FastText._FastText(str(path))
    rows, _ = read(path)
    subwords = open_source(path).subwords
    for word in ["unheardofword", "naïveté", "日本語", "x"]:
        owner, bucket = ngram_buckets([word.encode()], subwords.minn, subwords.maxn, subwords.buckets)
        assert (owner == 0).all()
        mean = rows[subwords.first_row + bucket].mean(axis=0) if len(bucket) else np.zeros(10)
        np.testing.assert_allclose(mean, vector(model, word), rtol=1e-5, atol=1e-7)


def test_old_fasttext_layout_agrees_with_its_vec(data, read):
    rows, keys = read(data("formats/fasttext/lee_fasttext.bin"))
    text, text_keys = read(data("formats/fasttext/lee_fasttext.vec"))
    assert keys == text_keys
    np.testing.assert_allclose(rows[: len(keys)], text, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["emoji2vec.bin", "euclidean_vectors.bin", "high_precision.kv.bin"])
def test_word2vec_binary(data, read, name):
    gensim = pytest.importorskip("gensim.models")
    path = data(f"formats/word2vec/{name}")
    want = gensim.KeyedVectors.load_word2vec_format(path, binary=True)
    rows, keys = read(path)
    assert keys == want.index_to_key
    np.testing.assert_array_equal(rows, want.vectors)


def test_word2vec_text(data, read):
    rows, keys = read(data("formats/word2vec/high_precision.kv.txt"))
    assert keys == ["kangaroo.n.01", "horse.n.01"]
    want = [[-0.0007369244245224787, -8.269973595356034e-05], [-0.0008546282343595379, 0.0007694142576316829]]
    np.testing.assert_array_equal(rows, np.array(want, np.float32))


def test_keys_cut_inside_a_character_are_refused(data):
    path = data("formats/word2vec/w2v_keyedvectors_load_test.modeldata")
    with pytest.raises(SourceError, match=r"UTF-8.*row 0"):
        list(open_source(path).chunks(10))


@pytest.mark.parametrize("name", ["glove.6B.50d.top5k.txt.gz", "test_glove.txt"])
def test_glove(data, read, name):
    path = data(f"formats/glove/{name}")
    content = path.read_bytes()
    lines = (gzip.decompress(content) if name.endswith("gz") else content).decode().splitlines()
    fields = [line.split(" ") for line in lines]
    rows, keys = read(path)
    assert keys == [f[0] for f in fields]
    np.testing.assert_array_equal(rows, np.array([f[1:] for f in fields], np.float64).astype(np.float32))


def test_magnitude_restores_norms(data, read):
    rows, keys = read(data("formats/magnitude/vectors.magnitude"))
    assert keys == ["the", "and"]
    glove, words = read(data("formats/glove/glove.6B.50d.top5k.txt.gz"))
    want = np.stack([glove[words.index(k)] for k in keys])
    np.testing.assert_allclose(rows, want, rtol=1e-4, atol=1e-6)


def test_parquet_with_null_rows_is_refused_naming_the_first(data):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = data("formats/parquet/article_embeddings.parquet")
    column = parquet.read_table(path, columns=["embedding"]).column(0).to_pylist()
    first = next(i for i, v in enumerate(column) if len(v) != 1024)
    with pytest.raises(SourceError, match=f"1024 values.*row {first};"):
        list(open_source(path).chunks(100))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_safetensors(data, read, dtype):
    library = pytest.importorskip("safetensors.numpy")
    path = data(f"formats/safetensors/model2vec_{dtype}.safetensors")
    want = library.load_file(path)["embeddings"]
    packed = data("formats/safetensors/model2vec_tokenizer.json.gz").read_bytes()
    tokenizer = json.loads(gzip.decompress(packed))
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    rows, keys = read(path, keys=vocabulary) if len(vocabulary) == len(want) else read(path)
    assert keys in (vocabulary, [])
    assert want.dtype == dtype
    np.testing.assert_array_equal(rows, want.astype(np.float32))


def test_gensim_pickles(data, read):
    gensim = pytest.importorskip("gensim.models")
    path = data("formats/gensim/word_vectors.kv")
    want = gensim.KeyedVectors.load(str(path))
    rows, keys = read(path)
    assert keys == want.index_to_key
    np.testing.assert_array_equal(rows, want.vectors)
    model = gensim.Word2Vec.load(str(data("formats/gensim/w2v_3.4.0.mdl")))
    rows, keys = read(data("formats/gensim/w2v_3.4.0.mdl"))
    assert keys == model.wv.index_to_key
    np.testing.assert_array_equal(rows, model.wv.vectors)
    rows, keys = read(data("formats/gensim/old_keyedvectors_320.dat"))
    assert rows.shape == (12, 100)
    old = gensim.KeyedVectors.load(str(data("formats/gensim/old_keyedvectors_320.dat")))
    assert keys == old.index_to_key
    np.testing.assert_array_equal(rows, old.vectors)


@pytest.mark.parametrize("name", ["bert-bge", "llama-spm"])
def test_gguf_of_a_vocabulary_alone_is_refused(data, name, tmp_path):
    path = data(f"formats/gguf/ggml-vocab-{name}.gguf.gz")
    plain = tmp_path / "vocab.gguf"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    for source in (path, plain):
        with pytest.raises(SourceError, match=r"vocabulary of 3[0-9]+ tokens and no tensors"):
            open_source(source)


def test_broken_gguf_is_refused(data, tmp_path):
    path = data("formats/broken/ggml-vocab-bert-bge.damaged.gguf.gz")
    plain = tmp_path / "damaged.gguf"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    for source in (path, plain):
        with pytest.raises(SourceError, match=r"damaged"):
            open_source(source)


def test_vecs(data, read):
    path = data("vectors/sift5k/siftsmall_query.fvecs")
    want = np.fromfile(path, "<f4").reshape(-1, 129)[:, 1:]
    np.testing.assert_array_equal(read(path)[0], want)
    path = data("vectors/sift5k/siftsmall_groundtruth.ivecs")
    want = np.fromfile(path, "<i4").reshape(-1, 101)[:, 1:]
    np.testing.assert_array_equal(read(path)[0], want)


def test_hdf5(data, read):
    h5py = pytest.importorskip("h5py")
    path = data("rec/ncf/ml-1m_GMF_8.h5")
    with pytest.raises(SourceError, match=r"found 3"):
        open_source(path)
    with pytest.raises(SourceNotFoundError, match=r"item_embedding"):
        open_source(path, name="nothing")
    name = "item_embedding/item_embedding_W"
    rows, _ = read(path, name=name)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(rows, file[name][:])
        np.testing.assert_array_equal(read(file[name])[0], rows)


def test_npy_with_a_key_file(data, read):
    path = data("words/glove.6B.50d.top100k.npy")
    words = data("words/glove.6B.50d.top100k.vocab.txt.gz")
    with open_source(path, keys=words) as source:
        assert source.key_type == "string"
        assert source.num_keys == 100_000
        chunk = next(source.chunks(5, start=99_990))
    want = gzip.decompress(words.read_bytes()).decode().split("\n")[99_990:99_995]
    assert chunk.keys == want
    np.testing.assert_array_equal(chunk.rows, np.load(path, mmap_mode="r")[99_990:99_995])
