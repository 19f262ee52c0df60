"""mgqe beyond the laws: bytes against the published ratios, cold prefixes, few rows, budgets, damage, a real table."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import errors, kernels
from embstore.arrays import TableShape
from embstore.method import nbytes
from embstore.methods.mgqe import MGQE, _pack, _unpack
from embstore.testing import MemoryRows, make_counts, make_rows

DATA = Path(os.environ.get("EMBSTORE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@pytest.mark.parametrize(("m", "published", "ours"), [(8, 0.1608, 0.1008), (4, 0.1117, 0.0523), (2, 0.0872, 0.0352)])
def test_bytes_against_the_published_ratios(m: int, published: float, ours: float) -> None:
    """Criteo at 16 dims, codes of 8 and 6 bits, a tenth hot: the published ratios count a 4-byte flag a row.

    Ours count 2 bits, and each row's codes rounded up to bytes; one codebook instead of one for each field.
    """
    shape = TableShape(33_762_577, 16)
    ratio = nbytes(MGQE(m=m).resolve(shape), shape) / shape.nbytes_float32
    assert ratio == pytest.approx(ours, abs=1e-4)
    codes = m * (0.1 * 8 + 0.9 * 6) / 8 / 64
    assert published - codes - 4 / 64 == pytest.approx(0, abs=2e-3)
    assert 0 <= ratio - codes < 0.012


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_any_width(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (9, 13)).astype(np.uint8)
    packed = _pack(codes, bits)
    assert packed.shape == (9, -(-13 * bits // 8))
    number = int.from_bytes(packed[4].tobytes(), "little")
    assert [number >> (bits * p) & ((1 << bits) - 1) for p in range(13)] == codes[4].tolist()
    assert np.array_equal(_unpack(packed, bits, 13), codes)


def test_hot_rows_lose_less(tmp_path: Path) -> None:
    rows, counts = np.random.default_rng(0).standard_normal((6000, 16)).astype(np.float32), make_counts(6000)
    table = embstore.compress(rows, tmp_path / "t", "mgqe", counts=counts, cold_bits=3)
    error = np.square(table.lookup(np.arange(6000)) - rows).sum(axis=1)
    order = np.argsort(-counts, kind="stable")
    assert error[order[:600]].mean() < 0.5 * error[order[600:]].mean()


def test_by_norm_and_by_counts(tmp_path: Path) -> None:
    rows, counts = make_rows(500, 8, hostile=False), make_counts(500)
    source = MemoryRows(rows, counts)
    shape, rng = TableShape(500, 8), np.random.default_rng(0)
    longest = np.argsort(-np.linalg.norm(rows, axis=1))[:50]
    used = np.argsort(-counts, kind="stable")[:50]
    alone = MemoryRows(rows)
    cases = (("norm", source, longest), ("counts", source, used), ("auto", source, used), ("auto", alone, longest))
    for by, given, hot in cases:
        fitted = MGQE(by=by, bits=2, cold_bits=1).resolve(shape).fit(given, rng)  # type: ignore[arg-type]
        assert set(np.flatnonzero(fitted["_group"] == 0)) == set(hot)
    with pytest.raises(errors.ConfigError, match="pass counts= or by='norm'"):
        embstore.compress(rows, tmp_path / "t", "mgqe", by="counts")


@pytest.mark.parametrize("hot", [0, 0.1, 1])
def test_fewer_rows_than_centroids_are_exact(tmp_path: Path, hot: float) -> None:
    rows = make_rows(20, 10, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", "mgqe", hot=hot)
    np.testing.assert_allclose(table.lookup(np.arange(20)), rows, rtol=1e-6)


def test_nan_is_refused(tmp_path: Path) -> None:
    rows = make_rows(20, 10, hostile=False)
    rows[7, 3] = np.nan
    with pytest.raises(errors.ConfigError, match="found one in row 7"):
        embstore.compress(rows, tmp_path / "t", "mgqe", nonfinite="keep")


@pytest.mark.parametrize("budget", [0.03, 0.08, 0.2])
def test_a_budget_is_kept_and_used(tmp_path: Path, budget: float) -> None:
    rows = make_rows(8000, 32, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", "mgqe", budget=budget, bits=4, cold_bits=3)
    assert table.nbytes <= budget * rows.nbytes
    finer = {MGQE(m=m, bits=4, cold_bits=3).resolve(TableShape(8000, 32)) for m in range(table.method.m + 1, 33)}
    assert all(nbytes(f, TableShape(8000, 32)) > budget * rows.nbytes for f in finer if f.m > table.method.m)


def test_mistakes() -> None:
    for fields in ({"m": 0}, {"bits": 9}, {"bits": 0}, {"cold_bits": 8, "bits": 6}, {"hot": 1.5}, {"by": "use"}):
        with pytest.raises(errors.ConfigError, match="of mgqe must be"):
            MGQE(**fields)  # type: ignore[arg-type]
    with pytest.raises(errors.BudgetError, match="needs at least"):
        MGQE().for_budget(TableShape(1000, 16), 1000)


def test_damaged_codes_stay_inside(tmp_path: Path) -> None:
    rows, shape = make_rows(300, 18, hostile=False), TableShape(300, 18)
    method = MGQE(m=5, bits=7, cold_bits=5).resolve(shape)
    fitted = method.fit(MemoryRows(rows), np.random.default_rng(0))
    shared = {k: v for k, v in fitted.items() if k[0] != "_"} | method.encode(fitted, np.arange(300), rows)
    rng = np.random.default_rng(1)
    for name in ("tags", "ranks", "hot_codes", "cold_codes"):
        noise = rng.integers(0, 256, shared[name].nbytes, dtype=np.uint8).view(shared[name].dtype)
        bound, _ = kernels.bind(method, shape, 1 << 40, [], {**shared, name: noise.reshape(shared[name].shape)})
        out = np.full((300, 18), np.nan, np.float32)
        assert bound.lookup(np.arange(300), out, 1) == -1
        assert np.isfinite(out).all()
        with pytest.raises(ValueError, match="restore"):
            kernels.bind(method, shape, 1 << 40, [], {**shared, name: shared[name][:-1]}, "native")


@pytest.mark.skipif(not (DATA / "words").is_dir(), reason="GloVe is absent; set EMBSTORE_TEST_DATA")
def test_words(tmp_path: Path) -> None:
    """20,000 GloVe words in the order of their frequency: the first tenth at 8 bits loses less than the rest at 6."""
    rows = np.load(next((DATA / "words").glob("*.npy")))[:20_000]
    table = embstore.compress(rows, tmp_path / "t", "mgqe", m=25, counts=1 / np.arange(1, len(rows) + 1))
    lost = np.square(table.lookup(np.arange(len(rows))) - rows).sum(axis=1) / np.square(rows).sum(axis=1)
    assert lost[:2000].mean() < 0.5 * lost[2000:].mean() < 0.02
    _, found = table.search(rows[:50], 1)
    assert (found[:, 0] == np.arange(50)).mean() > 0.95
