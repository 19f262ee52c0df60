"""The scorers of product and residual codes: the best by the sums of their tables, alike on every instruction set."""

import numpy as np
import pytest
from truth import METRICS, brute_force

import embstore
from embstore import native, registry

ISAS = native.require("the tests").usable_isas()
# Bits 4 are looked up in registers; of 8 and others a few queries go one way, groups of 32 another.
SPECS = [
    ("pq", {"m": 8, "bits": 4}),
    ("pq", {"m": 9, "bits": 4}),
    ("pq", {"m": 33, "bits": 4}),
    ("pq", {"m": 7, "bits": 8}),
    ("pq", {"m": 11, "bits": 6}),
    ("rq", {"m": 5, "bits": 4}),
    ("rq", {"m": 3, "bits": 8}),
    ("rq", {"m": 4, "bits": 3}),
]


def many_codes(n, dim, method, config, path, monkeypatch):
    """A table of n rows whose codes and codebooks are random: nothing to fit, any size."""
    rng = np.random.default_rng(n)
    monkeypatch.setattr(registry.get(method), "fit", lambda self, source, rng_: codebooks(self, source.shape, rng))
    return embstore.compress(rng.standard_normal((n, dim), dtype=np.float32), path, method, **config)


def codebooks(method, shape, rng):
    (spec,) = [s for s in method.layout(shape) if s.partition == "shared"]
    return {spec.name: rng.standard_normal(spec.sizes(), dtype=np.float32).astype(spec.dtype)}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("method", "config"), SPECS, ids=str)
def test_a_scan_finds_the_best_in_their_order(method, config, metric, tmp_path, monkeypatch):
    """One, a few and many queries, from the last rows of a tile too; every instruction set finds the same."""
    table = many_codes(1003, 33, method, config, tmp_path / "t", monkeypatch)
    rows = table.lookup(np.arange(1003))
    queries = np.random.default_rng(1).standard_normal((37, 33), dtype=np.float32)
    queries[5] = 0
    for count in (1, 2, 3, 37):
        found = []
        for isa in ISAS:
            monkeypatch.setenv("EMBSTORE_ISA", isa)
            found.append(embstore.open(tmp_path / "t")._scan(queries[:count], 20, metric, None))
        truth = brute_force(rows, queries[:count], metric)
        best = -np.sort(-truth, axis=1)[:, :20]
        tolerance = 1e-5 * np.abs(truth).max() if metric != "cosine" else 1e-5
        np.testing.assert_allclose(np.take_along_axis(truth, found[0], axis=1), best, rtol=0, atol=tolerance)
        assert all(np.array_equal(ids, found[0]) for ids in found)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("method", "config"), [("pq", {"m": 300, "bits": 4}), ("rq", {"m": 2, "bits": 4})], ids=str)
def test_extremes(method, config, isa, tmp_path, monkeypatch):
    """More slices than sums of full bytes have room for, and queries of tiny and huge values."""
    monkeypatch.setenv("EMBSTORE_ISA", isa)
    table = many_codes(500, 300, method, config, tmp_path / "t", monkeypatch)
    query = np.random.default_rng(2).standard_normal((1, 300), dtype=np.float32)
    products = table.lookup(np.arange(500)).astype(np.float64) @ query[0]
    for size in (1e-38, 1e-30, 1, 1e30):
        ids = table._scan(query * np.float32(size), 10, "ip", None)[0]
        np.testing.assert_allclose(products[ids], -np.sort(-products)[:10], rtol=1e-5)


def test_codes_with_tables_beyond_the_caches_are_decoded(tmp_path, monkeypatch):
    table = many_codes(300, 8, "pq", {"m": 4, "bits": 16}, tmp_path / "t", monkeypatch)
    queries = np.random.default_rng(3).standard_normal((4, 8), dtype=np.float32)
    truth = brute_force(table.lookup(np.arange(300)), queries, "ip")
    assert np.array_equal(table._scan(queries, 5, "ip", None), np.argsort(-truth, axis=1)[:, :5])
