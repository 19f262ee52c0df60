"""Adaptive embeddings: who is hot, maps, budgets; and the floor of memcom's budget."""

import numpy as np
import pytest

import embstore
from embstore import errors, kernels
from embstore.arrays import Arrays, TableShape
from embstore.compression import store
from embstore.method import nbytes
from embstore.methods.adapt import Adapt
from embstore.methods.memcom import Memcom

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")


@pytest.mark.parametrize("map_", ["table", "hot_ids"])
def test_frequent_ids_have_rows_of_their_own(map_):
    counts = np.array([5, 0, 9, 5, 1, 0, 5, 2])
    module = enn.embedding("adapt", 8, 4, counts=counts, hot=3, cold=2, map=map_, sign=False)
    rows = module(torch.arange(8)).detach().numpy()
    table = module.table.detach().numpy()
    assert np.array_equal(rows[[0, 2, 3]], table[:3])  # ids 0, 3 and 6 tie for the last two places
    cold = rows[[1, 4, 5, 6, 7]]
    assert all(any(np.array_equal(row, shared) for shared in table[3:]) for row in cold)
    if map_ == "table":
        assert np.array_equal(cold, table[[3, 4, 3, 4, 3]])


@pytest.mark.parametrize("map_", ["table", "hot_ids"])
def test_ids_that_share_a_row_have_signs_of_their_own(map_):
    counts = np.arange(40)[::-1]
    module = enn.embedding("adapt", 40, 8, counts=counts, hot=4, cold=6, map=map_)
    rows, table = module(torch.arange(40)).detach().numpy(), module.table.detach().numpy()
    assert np.array_equal(rows[:4], table[:4])
    for x in range(4, 40):
        signs = [(-1) ** ((x // 6) & j).bit_count() for j in range(8)]
        assert np.array_equal(rows[x], table[4 + x % 6] * signs)


def test_counts_are_needed():
    with pytest.raises(errors.ConfigError, match="needs counts"):
        enn.embedding("adapt", 8, 4)


@pytest.mark.parametrize("n", [1, 50, 10_000])
@pytest.mark.parametrize("given", [{}, {"map": "table"}, {"hot": 1}, {"cold": 1}])
def test_budgets_are_kept_and_spent(n, given):
    shape = TableShape(n, 16)
    for asked in (64 * n, 20 * n, 6 * n, n):
        try:
            method = Adapt(**given).for_budget(shape, asked)
        except errors.BudgetError as error:
            assert asked < 64 * (1 + given.get("hot", 0)) + 4 * n
            assert "needs at least" in str(error)
            continue
        used = nbytes(method.resolve(shape), shape)
        assert used <= asked
        hot, cold = method.rows
        assert used > asked - 68 or hot + cold >= n or hot == n or given.get("cold") == cold
        assert method.map == given.get("map", "hot_ids")


def test_floor_is_named():
    shape = TableShape(1000, 16)
    with pytest.raises(errors.BudgetError, match="at least 4,064 bytes"):
        Adapt(map="table").for_budget(shape, 4063)
    assert nbytes(Adapt(map="table").for_budget(shape, 4064), shape) == 4064
    with pytest.raises(errors.BudgetError, match="at least 64 bytes"):
        Adapt().for_budget(shape, 63)
    with pytest.raises(errors.BudgetError, match="at least 4,064 bytes, 1 float32"):
        Memcom().for_budget(shape, 4063)
    assert nbytes(Memcom().for_budget(shape, 4064), shape) == 4064
    with pytest.raises(errors.BudgetError, match="at least 8,064 bytes, 2 float32"):
        Memcom(bias=True).for_budget(shape, 8063)


def test_hot_ids_above_2_to_the_32(tmp_path):
    shape = TableShape(2**40, 8)
    method = Adapt(hot=100, cold=50, map="hot_ids").resolve(shape)
    arrays = method.example(shape, np.random.default_rng(0))
    table = store(tmp_path / "t", method, shape, arrays)
    assert arrays["hot_ids"].dtype == np.uint64 and arrays["hot_ids"].max() > 2**32
    hot = arrays["hot_ids"].astype(np.int64)
    assert np.array_equal(table.lookup(hot), arrays["table"][:100])
    others = np.concatenate([hot - 1, hot + 1, hot + 2**32, [0, 2**40 - 1]]) % 2**40
    others = others[~np.isin(others, hot)]
    assert np.array_equal(table.lookup(others), embstore.Table(table._stored, backend="numpy").lookup(others))
    shared = {row.tobytes() for row in arrays["table"][100:]}
    assert all(row.tobytes() in shared for row in table.lookup(others))


def test_a_damaged_map_reads_within_the_table():
    shape = TableShape(5, 16)
    method = Adapt(hot=2, cold=1).resolve(shape)
    table = np.arange(48, dtype=np.float32).reshape(3, 16)
    rows = {"map": np.array([0, 1, 2, 3, 2**32 - 1], np.uint32)}
    for backend in ("numpy", None):
        bound, _ = kernels.bind(method, shape, 8, [Arrays(rows)], {"table": table}, backend)
        out = np.empty((5, 16), np.float32)
        assert bound.lookup(np.arange(5), out, 1) == -1
        assert np.array_equal(out, table[[0, 1, 2, 2, 2]])


def test_refused():
    for config in ({"hot": -1}, {"cold": 0}, {"map": "bits"}, {"seed": -1}):
        with pytest.raises(errors.ConfigError, match=next(iter(config))):
            Adapt(**config)
    for config in ({"rows": 0}, {"bias": 1}):
        with pytest.raises(errors.ConfigError, match=next(iter(config))):
            Memcom(**config)
