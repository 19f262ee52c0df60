"""`embstore.compress` as a user calls it: budgets, duplicate keys, subwords."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import compression, registry
from embstore.arrays import Arrays
from embstore.errors import BudgetError, ConfigError, DuplicateKeyError, EmbstoreWarning
from embstore.format import layout
from embstore.testing.laws import MemoryRows, make_counts

N, DIM = 1000, 64
FLOAT32 = 4 * N * DIM


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)


@pytest.mark.parametrize(
    ("budget", "limit"),
    [("20%", FLOAT32 // 5), (0.2, FLOAT32 // 5), ("0.2", FLOAT32 // 5), ("4.5bpd", N * DIM * 9 // 16),
     (60_000, 60_000), (np.int64(60_000), 60_000), ("60000", 60_000), ("60KB", 60_000), ("50 KiB", 51_200),
     ("64MB", 64 * 10**6)],
)  # fmt: skip
def test_a_budget_is_kept_and_used(tmp_path: Path, rows: np.ndarray, budget: Any, limit: int) -> None:
    table = embstore.compress(rows, tmp_path / "t", "int4", budget=budget)
    assert table.nbytes <= limit
    # No config of the method lies between what it took and the limit.
    sizes = [
        embstore.compress(rows, tmp_path / f"{size}{scale}", "int4", block_size=size, scale_dtype=scale).nbytes
        for size in (16, 32, 64)
        for scale in ("float16", "float32")
    ]
    assert table.nbytes == max(size for size in sizes if size <= limit)


def test_a_smaller_budget_makes_a_coarser_table(tmp_path: Path, rows: np.ndarray) -> None:
    errors = []
    for budget in ("6bpd", "5bpd", "4.5bpd"):
        table = embstore.compress(rows, tmp_path / budget, "int4", budget=budget)
        errors.append(float(np.square(table.lookup(np.arange(N)) - rows).sum()))
    assert errors == sorted(errors)


@pytest.mark.parametrize("budget", ["10%", 0.1, "3.9bpd", 12_345, "12KB"])
@pytest.mark.parametrize(("method", "floor"), [("int4", 36_000), ("nf4", 34_000), ("float16", 128_000)])
def test_an_unreachable_budget_names_the_floor(
    tmp_path: Path, rows: np.ndarray, method: str, floor: int, budget: Any
) -> None:
    with pytest.raises(BudgetError, match=rf"'{method}' needs (at least )?{floor:,} bytes for 1,000 x 64") as caught:
        embstore.compress(rows, tmp_path / "t", method, budget=budget)
    assert isinstance(caught.value, ValueError)
    assert os.listdir(tmp_path) == []
    assert embstore.compress(rows, tmp_path / "t", method, budget=floor).nbytes == floor


@pytest.mark.parametrize("budget", ["ten", "4 apples", 0, -1, 1.5, True])
def test_what_is_no_budget_is_refused(tmp_path: Path, rows: np.ndarray, budget: Any) -> None:
    with pytest.raises(ConfigError, match="budget"):
        embstore.compress(rows, tmp_path / "t", budget=budget)
    assert os.listdir(tmp_path) == []


def test_a_field_that_the_budget_chooses_is_not_dropped_silently(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="block_size of method 'int4' is chosen by the budget"):
        embstore.compress(rows, tmp_path / "t", "int4", budget="64MB", block_size=64)
    # One that agrees, or that a budget does not choose, may stand.
    table = embstore.compress(rows, tmp_path / "t", "int4", budget="64MB", block_size=16, symmetric=True)
    assert "block_size=16, symmetric=True" in repr(table.method)
    # A field of a transform is not the budget's either.
    table = embstore.compress(rows, tmp_path / "u", "truncate,int4", budget="64MB", dim=32)
    assert table.embedding_dim == 32


@pytest.mark.parametrize("keys", [["a", "b", "a", "c", "b", "a"], np.array([7, 8, 7, 9, 8, 7])])
def test_the_last_of_duplicate_keys_wins(tmp_path: Path, keys: Any) -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    with pytest.raises(DuplicateKeyError, match=r"(?=.*rows 0 and 2)(?=.*on_duplicate=\"last\")"):
        embstore.compress(values, tmp_path / "t", "float32", keys=keys)
    assert os.listdir(tmp_path) == []
    table = embstore.compress(values, tmp_path / "t", "float32", keys=keys, on_duplicate="last")
    np.testing.assert_array_equal(table.lookup(keys, by="key"), values[[5, 4, 5, 3, 4, 5]])
    assert table.keys is not None and not table.keys.unique
    # The rows before stay, by id, and keep their key.
    np.testing.assert_array_equal(table.lookup(np.arange(6)), values)
    assert list(table.keys) == list(keys)
    assert table.verify() == []
    table.keys.verify()


def test_subwords_of_a_compressed_model(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    model = fasttext.train_unsupervised(str(corpus), dim=16, bucket=200, minCount=1, thread=1, epoch=1, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    words = ["foxes", "quickly", "日本語", "unseen"]
    want = np.stack([model.get_word_vector(word) for word in words])
    table = embstore.compress(tmp_path / "model.bin", tmp_path / "t", "int8")
    assert table.keys is not None
    assert (len(table.keys), table.num_embeddings) == (len(model.get_words()), len(model.get_words()) + 200)
    rows, known = table.lookup([*words, "fox"], oov="subwords", return_mask=True)
    assert known.tolist() == [False] * 4 + [True]
    # The mean over a word's n-grams is no further away than the worst of its rows: half a step of 8 bits.
    np.testing.assert_allclose(rows[:4], want, atol=float(np.ptp(model.get_input_matrix()) / 255))
    np.testing.assert_allclose(rows[4], model.get_word_vector("fox"), atol=float(np.ptp(want) / 255))
    exact = embstore.compress(tmp_path / "model.bin", tmp_path / "exact", "float32")
    np.testing.assert_array_equal(exact.lookup(words, oov="subwords"), want)


@pytest.mark.parametrize("name", ["pruned", "svd", "mgqe", "mixed_dim"])
def test_arrays_with_ragged_ones_are_stored_shard_by_shard(
    tmp_path: Path, rows: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training exports them: all rows at once, cut where the shards are."""
    monkeypatch.setattr(layout, "SHARD_BYTES", 512)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 128)
    monkeypatch.setattr(layout, "MIN_CHUNK_BYTES", 1)
    source = MemoryRows(rows, counts=make_counts(N))
    config: dict[str, Any] = {"groups": 3} if name == "svd" else {}
    method = registry.get(name).from_config(config).resolve(source.shape)
    shared = method.fit(source, np.random.default_rng(0))
    named = {**shared, **method.encode(shared, np.arange(N), rows)}
    named = {key: array for key, array in named.items() if not key.startswith("_")}
    specs = method.layout(source.shape)
    assert any(spec.partition == "ragged" for spec in specs)
    table = compression.store(tmp_path / "t", method, source.shape, named)
    assert table.verify() == [] and table.nbytes == sum(array.nbytes for array in named.values())
    for spec in specs:
        if spec.partition == "rows":
            assert len(list((tmp_path / "t" / spec.name / "c").iterdir())) > 2
    whole = np.empty_like(rows)
    method.lookup(Arrays({**shared, **named}, 0), np.arange(N), whole)
    assert np.array_equal(table.lookup(np.arange(N)), whole)


@pytest.mark.parametrize(
    ("spec", "rows", "said"),
    [("pq", 255, 1), ("opq4", 100, 1), ("rq4x6", 63, 1), ("pq", 256, 0), ("pq4x4", 16, 0), ("int8", 3, 0)],
)
def test_fewer_rows_than_centroids_are_kept_and_said(tmp_path, recwarn, spec, rows, said):
    given = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
    table = embstore.compress(given, tmp_path / "t", spec)
    own = [str(w.message) for w in recwarn if issubclass(w.category, EmbstoreWarning)]
    assert len(own) == said
    if said:
        assert f"found {rows}: the rows themselves are stored as centroids" in own[0]
        assert np.allclose(table.lookup(np.arange(rows)), given, atol=1e-5)
