"""Compositional embeddings: the solver's known values, budgets, initial weights."""

import numpy as np
import pytest

from embstore import errors, registry
from embstore.arrays import TableShape
from embstore.method import nbytes
from embstore.methods.compo import Compo, solve_collisions
from tests.nn.field_sizes import AVAZU, CRITEO

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")


def test_field_sizes_are_the_known_ones():
    assert (len(CRITEO), sum(CRITEO)) == (26, 33_762_577)
    assert (len(AVAZU), sum(AVAZU)) == (22, 9_449_445)


# The collision numbers that the code of the survey (arXiv 2311.15578) finds; it takes 0.50000 for 0.5.
@pytest.mark.parametrize(
    ("sizes", "ratio", "collisions", "reached"),
    [
        (CRITEO, 0.5, 2, 0.5), (CRITEO, 0.1, 10, 0.1), (CRITEO, 0.05, 20, 0.05), (CRITEO, 0.01, 101, 0.00996),
        (CRITEO, 0.005, 205, 0.00499), (AVAZU, 0.5, 2, 0.5), (AVAZU, 0.1, 10, 0.1), (AVAZU, 0.01, 102, 0.00995),
    ],
)  # fmt: skip
def test_collisions_of_the_survey(sizes, ratio, collisions, reached):
    found = solve_collisions(sizes, ratio * 1.0005)
    rows = sum(min(n, -(-n // found) + found) for n in sizes)
    assert found == collisions
    assert rows / sum(sizes) == pytest.approx(reached, abs=4e-5)
    strict = solve_collisions(sizes, ratio)
    assert sum(min(n, -(-n // strict) + strict) for n in sizes) <= ratio * sum(sizes)


@pytest.mark.parametrize("sizes", [CRITEO, AVAZU])
def test_unreachable_ratio_is_refused(sizes):
    with pytest.raises(errors.BudgetError, match=r"at least 0\.001"):
        solve_collisions(sizes, 0.001)


@pytest.mark.parametrize("op", ["multiply", "add", "concat"])
@pytest.mark.parametrize("partitions", [1, 2, 3, 4])
def test_digits_tell_all_ids_apart(op, partitions):
    shape = TableShape(1009, 12)
    method = Compo(op=op, partitions=partitions, collisions=6).resolve(shape)
    digits = np.stack(method.digits(np.arange(1009)), axis=1)
    assert len(np.unique(digits, axis=0)) == 1009
    assert [int(d) for d in digits.max(axis=0)] == [rows - 1 for rows, _ in method.tables(shape)]


@pytest.mark.parametrize("op", ["multiply", "add", "concat"])
@pytest.mark.parametrize("n", [1, 2, 1000, 10**6, 2**40])
def test_budgets_are_kept_and_spent(op, n):
    shape = TableShape(n, 16)
    method = registry.get("compo")(op=op)
    for nbytes_asked in (64 * n, 32 * n, 6 * n, n, n // 10, n // 1000, 10**6):
        try:
            chosen = method.for_budget(shape, nbytes_asked)
        except errors.BudgetError:
            ways = [Compo(op=op, partitions=4, collisions=c) for c in range(1, 4096)]
            assert min(nbytes(way, shape) for way in ways) > nbytes_asked
            continue
        assert nbytes(chosen, shape) <= nbytes_asked
        if chosen.partitions == 2 and chosen.collisions < n:  # spent to the last row
            larger = Compo(op=op, partitions=2, collisions=chosen.collisions + 1)
            assert nbytes(larger, shape) > nbytes_asked
        elif chosen.partitions > 2 and chosen.collisions > 1:
            coarser = Compo(op=op, partitions=chosen.partitions, collisions=chosen.collisions - 1)
            assert nbytes(coarser, shape) > nbytes_asked or nbytes(coarser, shape) >= nbytes(chosen, shape)


def test_floor_is_reached():
    shape = TableShape(10_000, 16)
    assert Compo().resolve(shape) == Compo(partitions=2, collisions=989)  # 989 + 11 rows, a tenth
    with pytest.raises(errors.BudgetError, match="at least 12,800 bytes"):
        Compo(partitions=2).for_budget(shape, 12_799)
    assert Compo(partitions=2).for_budget(shape, 12_800).collisions == 100
    assert Compo().for_budget(shape, 12_799).partitions == 3


@pytest.mark.parametrize("op", ["multiply", "add", "concat"])
@pytest.mark.parametrize("partitions", [2, 3, 4])
def test_rows_start_with_the_variance_of_a_full_table(op, partitions):
    n = 50_000
    module = enn.embedding("compo", n, 16, op=op, partitions=partitions, collisions=25)
    with torch.no_grad():
        std = module(torch.arange(n)).std().item()
    assert std == pytest.approx((1 / n / 3) ** 0.5, rel=0.15)


def test_refused():
    for config in ({"op": "divide"}, {"partitions": 5}, {"partitions": 0}, {"collisions": 0}):
        with pytest.raises(errors.ConfigError, match=next(iter(config))):
            Compo(**config)
