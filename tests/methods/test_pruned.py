"""pruned beyond the laws: how many values are kept, ties, budgets, damaged starts, a real table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import errors, kernels
from embstore.arrays import Arrays, TableShape
from embstore.format import layout
from embstore.method import nbytes
from embstore.methods.pruned import Pruned
from embstore.testing import MemoryRows, make_rows

DATA = Path(os.environ.get("EMBSTORE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def keep(method: Pruned, rows: np.ndarray) -> np.ndarray:
    """Which values stay."""
    method = method.resolve(TableShape(*rows.shape))
    shared = method.fit(MemoryRows(rows), np.random.default_rng(0))
    encoded = method.encode(shared, np.arange(len(rows)), rows)
    return np.unpackbits(encoded["mask"], axis=1, count=rows.shape[1], bitorder="little").astype(bool)


@pytest.mark.parametrize("density", [1e-4, 0.01, 0.1, 0.25, 0.77, 1.0])
def test_the_largest_are_kept_and_no_more(density: float) -> None:
    rows = make_rows(300, 33, hostile=False)
    kept = keep(Pruned(density, index="bitmap"), rows)
    wanted = int(density * rows.size)
    assert kept.sum() == wanted
    assert wanted == rows.size or not wanted or np.abs(rows[kept]).min() > np.abs(rows[~kept]).max()


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_ties_meet_the_density_to_a_row(density: float, levels: int) -> None:
    rows = np.random.default_rng(1).integers(1, levels + 1, (400, 20)).astype(np.float32)
    kept = keep(Pruned(density, index="bitmap"), rows)
    assert 0 <= int(density * rows.size) - kept.sum() < 20
    assert np.abs(rows[kept]).min() >= np.abs(rows[~kept]).max()
    lowest = rows[kept].min()
    assert not np.array_equal(rows > lowest, kept)  # some ties are kept


def test_nothing_and_everything_kept(tmp_path: Path) -> None:
    rows = make_rows(40, 9, hostile=False)
    assert not embstore.compress(rows, tmp_path / "none", "pruned", density=1e-6).lookup(np.arange(40)).any()
    whole = embstore.compress(rows, tmp_path / "all", "pruned", density=1, values="float32")
    assert np.array_equal(whole.lookup(np.arange(40)), rows)


def test_nan_and_inf_count_as_largest() -> None:
    rows = np.ones((10, 10), np.float32)
    rows[3, 4], rows[5, 6], rows[7, 8] = np.nan, -np.inf, 2
    assert np.argwhere(keep(Pruned(0.03, index="bitmap"), rows)).tolist() == [[3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize("dim", [8, 50, 128, 300])
def test_auto_takes_the_smaller_index(dim: int) -> None:
    shape = TableShape(10_000, dim)
    for density in (0.01, 0.05, 0.12, 0.2, 0.5):
        sizes = {i: nbytes(Pruned(density, index=i).resolve(shape), shape) for i in ("bitmap", "columns")}
        chosen = Pruned(density).resolve(shape)
        assert nbytes(chosen, shape) == min(sizes.values())


@pytest.mark.parametrize("values", ["float16", "float32", "int8"])
@pytest.mark.parametrize("budget", [0.05, 0.2, 0.6])
def test_a_budget_is_used_up(tmp_path: Path, values: Any, budget: float) -> None:
    rows = make_rows(2000, 64, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", "pruned", budget=budget, values=values)
    limit = budget * rows.nbytes
    assert table.nbytes <= limit and (table.method.density == 1 or table.nbytes > limit - 8)


def test_mistakes() -> None:
    for fields in ({"density": 0}, {"density": 1.1}, {"density": True}, {"values": "int4"}, {"index": "csr"}):
        with pytest.raises(errors.ConfigError, match="pruned must be"):
            Pruned(**fields)  # type: ignore[arg-type]
    for fields in ({"rows_per_start": 3}, {"index": "columns", "rows_per_start": 2}, {"index": "cells"}):
        with pytest.raises(errors.ConfigError, match="rows_per_start of pruned must be"):
            Pruned(**fields)  # type: ignore[arg-type]
    with pytest.raises(errors.BudgetError, match="at least 8 bytes"):
        Pruned().for_budget(TableShape(1000, 64), 7)
    with pytest.raises(errors.BudgetError, match="at least 5,003 bytes"):
        Pruned(index="columns").for_budget(TableShape(1000, 64), 5002)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dim", [1, 16, 128, 300])
def test_a_budget_chooses_the_index_that_keeps_nearly_most(dim: int, share: float) -> None:
    shape = TableShape(100_000, dim)
    budget = int(share * shape.nbytes_float32)
    chosen = Pruned().for_budget(shape, budget)
    assert nbytes(chosen, shape) <= budget
    for index, run in (("bitmap", 1), ("columns", 1), ("bitmap", 16), ("cells", 16), ("cells", 128)):
        try:
            other = Pruned(index=index, rows_per_start=run).for_budget(shape, budget)  # type: ignore[arg-type]
        except errors.BudgetError:
            continue
        assert chosen.density >= 0.949 * other.density


@pytest.mark.parametrize("index", ["bitmap", "cells"])
def test_starts_count_over_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Any) -> None:
    monkeypatch.setattr(layout, "SHARD_BYTES", 256)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 64)
    monkeypatch.setattr(layout, "MIN_CHUNK_BYTES", 1)
    rows = make_rows(300, 40, hostile=False)
    fields = {"density": 0.2, "index": index, "rows_per_start": 16, "values": "int8"}
    table = embstore.compress(rows, tmp_path / "t", "pruned", **fields)
    assert len(list((tmp_path / "t" / "scale" / "c").rglob("*"))) > 2
    whole = embstore.compress(rows, tmp_path / "one", "pruned", density=0.2, values="int8")
    assert table.lookup(np.arange(300)).tobytes() == whole.lookup(np.arange(300)).tobytes()
    by_numpy = embstore.Table(table._stored, backend="numpy")
    assert by_numpy.lookup(np.arange(299, -1, -1)).tobytes() == whole.lookup(np.arange(299, -1, -1)).tobytes()


def test_too_large_for_float16(tmp_path: Path) -> None:
    rows = np.ones((5, 4), np.float32)
    rows[2, 1] = 1e5
    with pytest.raises(errors.ConfigError, match="found 100000 in row 2; use values='float32'"):
        embstore.compress(rows, tmp_path / "t", "pruned")
    assert embstore.compress(rows, tmp_path / "t", "pruned", values="float32")[2][1] == 1e5


def test_starts_beyond_32_bits_are_wide() -> None:
    assert Pruned().resolve(TableShape(1 << 27, 64)).layout(TableShape(1 << 27, 64))[0].dtype == "uint64"


@pytest.mark.parametrize("index, run", [("bitmap", 1), ("columns", 1), ("bitmap", 16), ("cells", 16)])
def test_damaged_numbers_stay_inside_the_arrays(index: Any, run: int) -> None:
    """What no checksum has caught decodes to zeros, or to values of other rows, and reads nothing else."""
    rows = make_rows(64, 40, hostile=False)
    shape = TableShape(64, 40)
    method = Pruned(0.2, index=index, rows_per_start=run).resolve(shape)
    shared = method.fit(MemoryRows(rows), np.random.default_rng(0))
    encoded = method.encode(shared, np.arange(64), rows)
    ragged = {s.name: encoded.pop(s.name) for s in method.layout(shape) if s.partition == "ragged"}
    rng = np.random.default_rng(2)
    for name, array in {**encoded, **ragged}.items():
        if name == "values":
            continue
        raw = rng.integers(0, 256, array.nbytes, dtype=np.uint8)
        noise = {name: raw.view(array.dtype).reshape(array.shape)}
        arrays = {**encoded, **{k: v for k, v in noise.items() if k in encoded}}
        extra = {**ragged, **{k: v for k, v in noise.items() if k in ragged}}
        bound, choice = kernels.bind(method, shape, 1 << 40, [Arrays(arrays)], extra)
        assert choice.backend == "native"
        out = np.full((64, 40), np.nan, np.float32)
        assert bound.lookup(np.arange(64), out, 1) == -1
        assert not np.isnan(out).any()


@pytest.mark.skipif(not (DATA / "words").is_dir(), reason="GloVe is absent; set EMBSTORE_TEST_DATA")
def test_words(tmp_path: Path) -> None:
    """100,000 GloVe words: bytes to the letter, error falling with the density, neighbours kept."""
    source = next((DATA / "words").glob("*.npy"))
    rows = np.load(source)
    error = []
    for density in (0.1, 0.25, 0.5):
        table = embstore.compress(source, tmp_path / str(density), "pruned", density=density)
        out = table.lookup(np.arange(len(rows)))
        assert int(density * rows.size) - 50 <= np.count_nonzero(out) <= density * rows.size
        error.append(np.square(out - rows).sum() / np.square(rows).sum())
    assert error[0] > error[1] > error[2]
    assert error[2] < 0.12
    _, found = table.search(rows[:50], 1)
    assert (found[:, 0] == np.arange(50)).mean() > 0.9
