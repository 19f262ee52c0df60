"""Rows from characters: the same bits everywhere, one for every string, alike for like words."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import embstore
from embstore import errors, kernels, native, oov
from embstore.arrays import Arrays, TableShape
from embstore.methods.ngram_hash import NgramHash

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

WORDS = [
    "", "a", "ab", "cat", "cats", "international", "internationally", "über", "漢字", "🙂🙂🙂", "\ud800", "tab\there",
    "long" * 300,
]  # fmt: skip
BITS = """
import sys, json, numpy as np
from embstore import kernels
from embstore.arrays import Arrays, TableShape
from embstore.methods.ngram_hash import NgramHash
words, out = json.load(open(sys.argv[1])), []
for config in ({}, {"least": 1, "most": 2, "seed": 7}, {"most": 64}):
    shape = TableShape(len(words), 50)
    method = NgramHash(projection=False, **config).resolve(shape)
    bound, choice = kernels.bind(method, shape, 1 << 10, [Arrays({})], method.keyed(words))
    assert choice.backend == "native"
    rows = np.empty((len(words), 50), np.float32)
    assert bound.lookup(np.arange(len(words)), rows, 1) == -1
    out.append(rows)
np.save(sys.argv[2], np.stack(out))
"""


@pytest.mark.parametrize("isa", ["", "avx2", "ref"])
def test_the_same_bits_everywhere(isa, tmp_path):
    if isa and isa not in native.require("the test").usable_isas():
        pytest.skip(f"this processor has no {isa}")
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    arguments = [sys.executable, "-c", BITS, str(tmp_path / "words.json"), str(tmp_path / "out.npy")]
    subprocess.run(arguments, env={**os.environ, "EMBSTORE_ISA": isa}, check=True, timeout=120)
    found = np.load(tmp_path / "out.npy")
    for rows, config in zip(found, ({}, {"least": 1, "most": 2, "seed": 7}, {"most": 64}), strict=True):
        method = NgramHash(projection=False, **config).resolve(TableShape(len(WORDS), 50))
        want = np.empty((len(WORDS), 50), np.float32)
        method.lookup(Arrays(method.keyed(WORDS)), np.arange(len(WORDS)), want)
        assert np.array_equal(rows, want)
        module = enn.embedding("ngram_hash", len(WORDS), 50, projection=False, keys=WORDS, **config)
        assert np.array_equal(module(torch.arange(len(WORDS))).numpy(), want)


def test_features_are_those_of_the_ngrams_policy():
    """With the same n-grams and the seed 0, up to the length of the vector."""
    method = NgramHash(projection=False).resolve(TableShape(1, 64))
    for word in WORDS:
        mine = np.empty((1, 64), np.float32)
        method.lookup(Arrays(method.keyed([word])), np.array([0]), mine)
        theirs = oov.ngram_vector(word, 64)
        np.testing.assert_allclose(mine[0] / np.linalg.norm(mine), theirs, atol=1e-6)


def test_ngrams_of_characters_not_bytes():
    method = NgramHash(least=2, most=3)
    whole = "<äb🙂>"
    grams = [whole[i : i + n] for i in range(5) for n in (2, 3) if i + n <= 5]
    assert method.gram_hashes("äb🙂".encode()) == [oov._fnv1a64(gram.encode()) for gram in grams]


def test_features_have_a_mean_square_of_one():
    letters = np.random.default_rng(0).integers(97, 123, (2000, 8), np.uint8)
    words = [row.tobytes().decode() for row in letters]
    method = NgramHash(features=64, projection=False)
    x = method.encodings(method.keyed(words), np.arange(2000))
    assert (x.astype(np.float64) ** 2).mean() == pytest.approx(1, rel=0.05)
    assert np.abs(x.mean()) < 0.05


def test_a_table_has_a_row_for_every_string(tmp_path):
    module = enn.embedding("ngram_hash", 3, 16, keys=["cat", "dog", "bird"], features=40)
    table = module.export(tmp_path / "t")
    assert list(table.keys) == ["cat", "dog", "bird"] and "cats" not in table
    strange = ["cats", "", "漢字", "dog"]
    want = module.rows_of(strange).detach().numpy()
    for read in (table, embstore.open(tmp_path / "t", mmap=False), embstore.Table(table._stored, backend="numpy")):
        rows, known = read.lookup(strange, return_mask=True)
        np.testing.assert_allclose(rows, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
        assert known.tolist() == [False, False, False, True]
        assert np.array_equal(rows[3], read[1])
        assert np.array_equal(read["cats"], rows[0])
        assert np.array_equal(read.lookup([["cats", ""], ["漢字", "dog"]]), rows.reshape(2, 2, 16))
        assert not read.lookup(strange, oov="zeros")[:3].any()
    out = np.empty((4, 16), np.float16)
    assert np.array_equal(table.lookup(strange, out=out), table.lookup(strange).astype(np.float16))


def test_a_table_of_no_rows(tmp_path):
    module = enn.embedding("ngram_hash", 0, 16, keys=[])
    table = module.export(tmp_path / "t")
    assert len(table) == 0 and table.keys is None and table.nbytes == 4 * (128 + 1) * 16 + 8
    want = module.rows_of(["anyword", "other"]).detach().numpy()
    for read in (table, embstore.open(tmp_path / "t")):
        np.testing.assert_allclose(read["anyword"], want[0], rtol=1e-5, atol=1e-6)
        rows, known = read.lookup(["anyword", "other"], return_mask=True)
        np.testing.assert_allclose(rows, want, rtol=1e-5, atol=1e-6)
        assert not known.any() and read.lookup([]).shape == (0, 16)
    with pytest.raises(errors.IdRangeError, match="no rows"):
        table.lookup([0])
    with pytest.raises(errors.IdTypeError, match="must be strings, found int 3"):
        table.lookup([3], by="key")
    with pytest.raises(errors.IdTypeError, match="bytes"):
        table.lookup([b"anyword"])


def test_a_table_of_no_rows_and_nothing_trained_stores_nothing_but_its_config(tmp_path):
    table = enn.embedding("ngram_hash", 0, 300, keys=[], projection=False).export(tmp_path / "t")
    assert table.nbytes == 8  # one offset
    assert table["anyword"].shape == (300,)


def test_like_words_get_like_rows_and_what_is_learned_of_one_serves_the_other():
    torch.manual_seed(0)
    words = [stem + end for stem in ("walk", "jump", "paint", "cook") for end in ("", "s", "ing")]
    labels = torch.arange(4).repeat_interleave(3)
    module = enn.embedding("ngram_hash", len(words), 4, keys=words, features=256)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(torch.arange(len(words))), labels).backward()
        optimizer.step()
    unseen = module.rows_of(["walked", "jumper", "painter", "cooker"])
    assert unseen.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_offsets_beyond_the_text_do_no_harm():
    shape = TableShape(4, 8)
    method = NgramHash(projection=False).resolve(shape)
    arrays = {"offsets": np.array([2**63, 3, 1, 2**64 - 1, 0], np.uint64), "text": np.frombuffer(b"abcdef", np.uint8)}
    want, found = (np.empty((4, 8), np.float32) for _ in range(2))
    method.lookup(Arrays(arrays), np.arange(4), want)
    bound, _ = kernels.bind(method, shape, 4, [Arrays({})], arrays)
    assert bound.lookup(np.arange(4), found, 1) == -1
    assert np.array_equal(found, want)


def test_budgets_count_keys():
    keys = [f"a rather long key {i}" for i in range(500)]
    for budget in (30_000, 100_000):
        module = enn.embedding("ngram_hash", 500, 64, budget=budget, keys=keys)
        assert budget - 4 * 64 < module.nbytes_inference() <= budget
    with pytest.raises(errors.BudgetError, match="needs at least"):
        enn.embedding("ngram_hash", 500, 64, budget=10_000, keys=keys)


@pytest.mark.parametrize(
    "config", [{"features": 0}, {"least": 0}, {"least": 4, "most": 3}, {"most": 65}, {"projection": 1}, {"seed": -1}]
)
def test_refused(config):
    with pytest.raises(errors.ConfigError, match=next(iter(config))):
        NgramHash(**config)


def test_refused_for_a_shape():
    with pytest.raises(errors.ConfigError, match="must be the 16 values"):
        NgramHash(features=8, projection=False).resolve(TableShape(3, 16))
    with pytest.raises(errors.ConfigError, match="must be 3 strings, one a row, found 2"):
        enn.embedding("ngram_hash", 3, 16, keys=["a", "b"])
    with pytest.raises(errors.ConfigError, match="3 strings"):
        enn.embedding("ngram_hash", 3, 16, keys=["a", "b", 3])
