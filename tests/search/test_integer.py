"""The integer scorers of uniform codes, on every instruction set, against products of decoded rows."""

import numpy as np
import pytest

import embstore
from embstore import native
from embstore.testing import make_rows

CONFIGS = [
    {},
    {"symmetric": True},
    {"symmetric": True, "scale_dtype": "float32"},
    {"block_size": 16},
    {"block_size": 20, "symmetric": True},
]
ISAS = native.require("the tests").usable_isas()


def scanned(table, queries):
    """Every row, in the order a scan puts them, and the truth in that order."""
    ids = table._scan(queries, len(table), "ip", None)
    rows = table.lookup(np.arange(len(table))).astype(np.float64)
    return np.take_along_axis(queries.astype(np.float64) @ rows.T, ids, axis=1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dim", [1, 31, 64, 130])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("method", ["int8", "int4", "int2"])
def test_products_are_exact_for_queries_of_bytes(method, config, dim, isa, tmp_path, monkeypatch):
    """Values of -1, 0 and 1 become bytes without loss, so that the order must be right to float rounding."""
    monkeypatch.setenv("EMBSTORE_ISA", isa)
    rng = np.random.default_rng(dim)
    rows = (rng.standard_normal((333, dim)) * rng.uniform(0.1, 3, (333, 1)) + 0.3).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", method, **config)
    queries = rng.integers(-1, 2, (19, dim)).astype(np.float32)
    queries[0] = 0
    queries[1] = 1
    for count in (1, 19):
        scores = scanned(table, queries[:count])
        assert (np.diff(scores, axis=1) <= 1e-4 * max(1, np.abs(scores).max())).all()


@pytest.mark.parametrize("isa", ISAS)
def test_a_rounded_query_is_off_by_half_a_step_a_value(isa, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBSTORE_ISA", isa)
    rows = make_rows(2000, 100, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", "int8")
    queries = make_rows(5, 100, 1, hostile=False)
    decoded = np.abs(table.lookup(np.arange(2000)))
    steps = np.abs(queries).max(axis=1) / 64  # 6 bits and a sign, the least there is
    bound = 2 * (decoded.sum(axis=1).max() * steps / 2)  # two rows, each off by half a step
    assert (np.diff(scanned(table, queries), axis=1) <= bound[:, None] + 1e-4).all()


@pytest.mark.parametrize("isa", ISAS)
def test_extremes(isa, tmp_path, monkeypatch):
    """The largest codes with the largest query do not saturate, and rows and queries of zeros, tiny and huge values
    are scored; rows with NaN are left out."""
    monkeypatch.setenv("EMBSTORE_ISA", isa)
    rows = np.zeros((40, 256), np.float32)
    rows[np.arange(32), :] = np.where(np.arange(256)[None] < 8 * np.arange(32)[:, None], 1, -1)
    rows[33] = np.nan
    table = embstore.compress(rows, tmp_path / "t", "int8", nonfinite="keep")
    for size in (1e-40, 1.0, 1e35):
        ids = table._scan(np.full((1, 256), size, np.float32), 33, "ip", None)[0]
        assert ids[:15].tolist() == list(range(31, 16, -1)) and 33 not in ids
