"""ROBE: where chunks lie, signs, budgets."""

import numpy as np
import pytest

from embstore import errors, kernels
from embstore.arrays import Arrays, TableShape
from embstore.method import nbytes
from embstore.methods.robe import PRIME, Robe


def rows_by_the_paper(method, pool, ids, dim):
    """Value by value, in Python's integers."""
    b, c, d, b2, c2, d2 = method.factors()
    out = np.empty((len(ids), dim), np.float32)
    for row, x in enumerate(map(int, ids)):
        for j in range(dim):
            run, i = divmod(j, method.chunk)
            start = (b * x + c * run + d) % PRIME
            at = (start + i) % method.size if method.wrap else start % (method.size - method.chunk + 1) + i
            if method.wrap:
                assert at == (start % method.size + i) % method.size
            sign = 2 * ((b2 * x + c2 * j + d2) % PRIME % 2) - 1 if method.sign else 1
            out[row, j] = sign * pool[at]
    return out


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize(("dim", "chunk"), [(16, 16), (24, 16), (64, 8), (5, 2)])
def test_formula(wrap, sign, dim, chunk):
    shape = TableShape(2**40, dim)
    method = Robe(size=71, chunk=chunk, wrap=wrap, sign=sign, seed=3).resolve(shape)
    pool = np.arange(1, 72, dtype=np.float32)
    ids = np.concatenate([[0, 1, PRIME, 2**40 - 1], np.random.default_rng(0).integers(0, 2**40, 60)])
    want = rows_by_the_paper(method, pool, ids, dim)
    for backend in ("numpy", None):
        bound, _ = kernels.bind(method, shape, 1 << 40, [Arrays({})], {"pool": pool}, backend)
        out = np.empty((len(ids), dim), np.float32)
        assert bound.lookup(ids, out, 1) == -1
        assert np.array_equal(out, want)


def test_runs_reach_both_ends_of_the_pool_evenly():
    method = Robe(size=50, chunk=4, wrap=True).resolve(TableShape(40_000, 4))
    out = np.empty((40_000, 4), np.float32)
    method.lookup(Arrays({"pool": np.arange(50, dtype=np.float32)}), np.arange(40_000), out)
    counts = np.bincount(out.astype(int).reshape(-1), minlength=50)
    assert counts.min() > 0.9 * counts.mean() and counts.max() < 1.1 * counts.mean()


def test_signs_are_even_and_differ_by_seed():
    shape = TableShape(20_000, 8)
    ones = Arrays({"pool": np.ones(100, np.float32)})
    signs = []
    for seed in (0, 1):
        out = np.empty((20_000, 8), np.float32)
        Robe(size=100, sign=True, seed=seed).resolve(shape).lookup(ones, np.arange(20_000), out)
        assert set(np.unique(out)) == {-1.0, 1.0}
        signs.append(out)
    for each in (*signs, signs[0] * signs[1]):
        assert np.abs(each.mean(axis=0)).max() < 0.05


def test_budgets():
    shape = TableShape(10_000, 16)
    for asked in (64, 100, 6_400, 640_000, 10**9):
        method = Robe().for_budget(shape, asked)
        assert nbytes(method.resolve(shape), shape) == min(asked // 4 * 4, 640_000)
        assert nbytes(Robe(pool_dtype="int8").for_budget(shape, asked).resolve(shape), shape) == min(asked, 640_000)
    with pytest.raises(errors.BudgetError, match="at least 64 bytes"):
        Robe().for_budget(shape, 63)


def test_refused():
    for config in ({"size": 0}, {"size": PRIME + 1}, {"chunk": 0}, {"wrap": 1}, {"sign": "yes"}, {"seed": -1}):
        with pytest.raises(errors.ConfigError, match=next(iter(config))):
            Robe(**config)
    with pytest.raises(errors.ConfigError, match="at least a chunk of 16"):
        Robe(size=15).resolve(TableShape(10, 16))
