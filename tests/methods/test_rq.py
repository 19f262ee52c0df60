"""rq beyond the laws: the sizes a budget gets."""

from __future__ import annotations

import numpy as np
import pytest

from embstore import encoding
from embstore.arrays import Arrays, TableShape
from embstore.errors import BudgetError
from embstore.method import nbytes
from embstore.methods.rq import RQ
from embstore.testing import MemoryRows


@pytest.mark.parametrize(("budget", "m", "bits"), [(62_500, 3, 5), (125_000, 10, 4)])
def test_a_budget_takes_the_sizes_of_least_expected_error(budget: int, m: int, bits: int) -> None:
    shape = TableShape(20_000, 50)
    chosen = RQ().for_budget(shape, budget)
    assert (chosen.m, chosen.bits) == (m, bits)
    assert nbytes(chosen, shape) <= budget


def test_an_impossible_budget_names_the_floor() -> None:
    shape = TableShape(1000, 8)
    floor = nbytes(RQ(1, 4, codebook_dtype="float16"), shape)
    with pytest.raises(BudgetError, match=f"{floor:,} bytes"):
        RQ().for_budget(shape, floor - 1)
    assert nbytes(RQ().for_budget(shape, floor), shape) == floor


def test_small_codes_are_fitted_to_many_rows() -> None:
    """16 centroids need few rows, but the codebooks of a row are learned together."""
    rows = MemoryRows(np.random.default_rng(0).standard_normal((12_000, 6)).astype(np.float32))
    method = RQ(4, 4, beam=2).resolve(rows.shape)
    codebooks = method.fit(rows, np.random.default_rng(0))["codebooks"]
    few = MemoryRows(rows.sample(4096, np.random.default_rng(1)))
    of_few = method.fit(few, np.random.default_rng(0))["codebooks"]
    everything, ids = rows.sample(12_000, np.random.default_rng(0)), np.arange(12_000)

    def error(books: np.ndarray) -> float:
        out = np.empty_like(everything)
        shared = {"codebooks": books}
        method.lookup(Arrays({**shared, **encoding.encode(method, shared, ids, everything)}), ids, out)
        return float(np.square(out - everything).sum())

    assert error(codebooks) < 0.995 * error(of_few)
