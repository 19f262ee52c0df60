"""dedup beyond the laws: what it keeps to the bit, what it saves, how near is near enough, budgets, a real table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import errors, kernels
from embstore.arrays import Arrays, TableShape
from embstore.methods._leaders import leaders
from embstore.methods.dedup import Dedup
from embstore.testing import MemoryRows, make_rows

DATA = Path(os.environ.get("EMBSTORE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def repeated(rows: int = 3000, unique: int = 200, dim: int = 24) -> np.ndarray:
    return make_rows(unique, dim, hostile=False)[np.random.default_rng(0).integers(0, unique, rows)]


def blocks_of(table: Any) -> int:
    return next(a["shape"][0] for a in table.metadata["generations"][0]["arrays"] if a["name"] == "blocks")


def test_equal_rows_are_stored_once_to_the_bit(tmp_path: Path) -> None:
    rows = repeated()
    rows[5], rows[6] = 0.0, -0.0
    rows[7] = np.frombuffer(np.uint32(0x7FC12345).tobytes(), np.float32)
    table = embstore.compress(rows, tmp_path / "t", "dedup", nonfinite="keep")
    assert table.lookup(np.arange(3000)).tobytes() == rows.tobytes()
    different = len({row.tobytes() for row in rows})
    assert blocks_of(table) == different
    assert table.nbytes == 3000 * 4 + different * 24 * 4
    assert table.verify() == []


@pytest.mark.parametrize(("place_dtype", "size"), [("uint8", 1), ("uint16", 2), ("uint32", 4)])
def test_places_as_wide_as_asked(tmp_path: Path, place_dtype: str, size: int) -> None:
    rows = repeated()
    table = embstore.compress(rows, tmp_path / "t", "dedup", place_dtype=place_dtype)
    assert np.array_equal(table.lookup(np.arange(3000)), rows)
    assert table.nbytes == 3000 * size + blocks_of(table) * 24 * 4


def test_places_too_narrow_are_refused_or_more_merged(tmp_path: Path) -> None:
    rows = repeated()
    rows[::2] *= np.float32(1.0001)
    with pytest.raises(errors.ConfigError, match="place_dtype 'uint8' of dedup tells 256 blocks apart, found 400"):
        embstore.compress(rows, tmp_path / "t", "dedup", place_dtype="uint8")
    assert not (tmp_path / "t").exists()
    table = embstore.compress(rows, tmp_path / "t", "dedup", place_dtype="uint8", budget=3000 + 400 * 96)
    assert blocks_of(table) <= 256
    with pytest.raises(errors.ConfigError, match="must be 'uint32', 'uint16' or 'uint8', found 'int8'"):
        Dedup(place_dtype="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize(("block_rows", "block_dims"), [(1, 5), (7, None), (4, 10), (5000, 24)])
def test_any_block_is_lossless(tmp_path: Path, block_rows: int, block_dims: int | None) -> None:
    rows = repeated()
    table = embstore.compress(rows, tmp_path / "t", "dedup", block_rows=block_rows, block_dims=block_dims)
    assert np.array_equal(table.lookup(np.arange(3000)), rows)
    assert np.array_equal(embstore.Table(table._stored, backend="numpy").lookup(np.arange(3000)), rows)


def test_blocks_of_rows_and_columns_are_found(tmp_path: Path) -> None:
    period = make_rows(8, 6, hostile=False)
    rows = np.tile(period, (50, 3))
    assert blocks_of(embstore.compress(rows, tmp_path / "a", "dedup", block_rows=8)) == 1
    assert blocks_of(embstore.compress(rows, tmp_path / "b", "dedup", block_rows=8, block_dims=6)) == 1
    assert blocks_of(embstore.compress(rows, tmp_path / "c", "dedup", block_dims=6)) == 8
    assert blocks_of(embstore.compress(rows, tmp_path / "d", "dedup", block_rows=3)) > 1


def test_float16_compares_what_it_stores(tmp_path: Path) -> None:
    rows = np.ones((10, 8), np.float32)
    rows[5:] += 1e-6
    table = embstore.compress(rows, tmp_path / "t", "dedup", values="float16")
    assert blocks_of(table) == 1 and table.nbytes == 10 * 4 + 8 * 2
    rows[3] = 1e6
    with pytest.raises(errors.ConfigError, match="found 1e\\+06; use values='float32'"):
        embstore.compress(rows, tmp_path / "u", "dedup", values="float16")


@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.3])
def test_near_rows_share_and_stay_near(tolerance: float) -> None:
    """Pairs at half the tolerance are found but for a few; whatever joins a row is within the tolerance of it."""
    rng = np.random.default_rng(3)
    base = make_rows(2000, 40, hostile=False)
    noise = rng.standard_normal(base.shape).astype(np.float32)
    noise *= np.linalg.norm(base, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    rows = np.concatenate([base, base + tolerance / 2 * noise])
    kept, found = leaders(rows, tolerance, rng)
    distance = np.linalg.norm(rows[kept[found]] - rows, axis=1)
    assert (distance <= tolerance * np.linalg.norm(rows, axis=1) * 1.00001).all()
    assert 2000 <= len(kept) <= 2040
    assert (found[kept] == np.arange(len(kept))).all()


def test_rows_that_are_not_finite_or_zero_join_none() -> None:
    rows = np.ones((6, 4), np.float32)
    rows[1], rows[2, 0], rows[3, 0], rows[4, 1] = 0, np.nan, np.inf, np.nan
    kept, found = leaders(rows, 0.5, np.random.default_rng(0))
    assert kept.tolist() == [0, 1, 2, 3, 4] and found.tolist() == [0, 1, 2, 3, 4, 0]


def test_a_budget_raises_the_tolerance_as_far_as_needed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = np.repeat(make_rows(500, 32, hostile=False), 8, axis=0)
    rows *= 1 + 0.02 * rng.standard_normal(rows.shape).astype(np.float32)
    exact = embstore.compress(rows, tmp_path / "a", "dedup", budget=200 * rows.shape[0])
    assert np.array_equal(exact.lookup(np.arange(len(rows))), rows)
    table = embstore.compress(rows, tmp_path / "b", "dedup", budget="20%")
    assert table.nbytes <= 0.2 * rows.nbytes
    error = np.square(table.lookup(np.arange(len(rows))) - rows).sum() / np.square(rows).sum()
    assert 0 < error < 0.003
    with pytest.raises(errors.BudgetError, match=r"even at a tolerance of 0\.87, found a budget"):
        embstore.compress(make_rows(500, 32, hostile=False), tmp_path / "c", "dedup", budget="6%")
    with pytest.raises(errors.BudgetError, match="at least 16,128 bytes"):
        embstore.compress(rows, tmp_path / "c", "dedup", budget=16_000)


def test_mistakes() -> None:
    for fields in (
        {"block_rows": 0}, {"block_rows": None}, {"block_dims": -1}, {"tolerance": 1}, {"tolerance": "0"},
        {"values": "int8"}, {"limit": 0},
    ):  # fmt: skip
        with pytest.raises(errors.ConfigError, match="of dedup must be"):
            Dedup(**fields)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match=r"up to 2\*\*32 blocks"):
        Dedup().resolve(TableShape(2**33, 8))
    Dedup(block_rows=4).resolve(TableShape(2**33, 8))


@pytest.mark.parametrize("block_rows", [1, 3])
def test_damaged_places_give_zeros(block_rows: int) -> None:
    rows, shape = make_rows(30, 20, hostile=False), TableShape(30, 20)
    method = Dedup(block_rows=block_rows, block_dims=7).resolve(shape)
    shared = method.fit(MemoryRows(rows), np.random.default_rng(0))
    encoded = {**method.encode(shared, np.arange(30), rows)}
    place = encoded["place"] if block_rows == 1 else shared["place"]
    place[:, 1] = 2**32 - 1
    stored = {k: v for k, v in shared.items() if k[0] != "_"}
    bound, _ = kernels.bind(method, shape, 1 << 40, [Arrays(encoded)], stored)
    out = np.empty((30, 20), np.float32)
    assert bound.lookup(np.arange(30), out, 1) == -1
    want = rows.copy()
    want[:, 7:14] = 0
    assert np.array_equal(out, want)


@pytest.mark.skipif(not (DATA / "words").is_dir(), reason="GloVe is absent; set EMBSTORE_TEST_DATA")
def test_words_under_several_keys(tmp_path: Path) -> None:
    """GloVe rows drawn by a Zipf law, as synonyms or cased forms share them: a fifth of the bytes, to the bit."""
    words = np.load(next((DATA / "words").glob("*.npy")))
    drawn = np.minimum(np.random.default_rng(0).zipf(1.3, 50_000) - 1, len(words) - 1)
    rows = words[drawn]
    table = embstore.compress(rows, tmp_path / "t", "dedup")
    assert np.array_equal(table.lookup(np.arange(len(rows))), rows)
    assert table.nbytes == 4 * len(rows) + 200 * len(np.unique(drawn))
    assert table.nbytes < 0.25 * rows.nbytes
    _, found = table.search(words[:20], 1)
    assert np.array_equal(rows[found[:, 0]], words[:20])
