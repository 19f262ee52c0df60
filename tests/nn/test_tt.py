"""Tensor trains: the solver's known ranks, initial weights, the product, budgets."""

import numpy as np
import pytest

from embstore import errors
from embstore.arrays import TableShape
from embstore.method import nbytes
from embstore.methods.tt import TT, solve_rank
from tests.nn.field_sizes import AVAZU, CRITEO

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")


# What the code of the survey (arXiv 2311.15578) finds.
@pytest.mark.parametrize(
    ("sizes", "ratio", "rank"),
    [
        (CRITEO, 0.5, 376), (CRITEO, 0.1, 157), (CRITEO, 0.05, 108), (CRITEO, 0.01, 46), (CRITEO, 0.005, 31),
        (CRITEO, 0.001, 13), (CRITEO, 0.0001, 3), (AVAZU, 0.5, 336), (AVAZU, 0.1, 147), (AVAZU, 0.01, 40),
        (AVAZU, 0.001, 11),
    ],
)  # fmt: skip
def test_ranks_of_the_survey(sizes, ratio, rank):
    assert solve_rank(sizes, 16, ratio) == rank
    shapes = [TableShape(n, 16) for n in sizes]
    spent = sum(min(64 * s.num_embeddings, nbytes(TT(rank=rank), s)) for s in shapes)
    # Cores stop at the rank that a table needs, which the survey's count does not: this is no more.
    assert 0.8 * ratio < spent / (64 * sum(sizes)) <= ratio


def test_unreachable_ratio_is_refused():
    with pytest.raises(errors.BudgetError, match="at least"):
        solve_rank([1000, 1000], 16, 0.001)


@pytest.mark.parametrize("cores", [2, 3, 4])
def test_rows_are_products_of_slices(cores):
    """Digits of the id, the most significant first, choose the slices; values come in the order of the cores' axes."""
    n, dim = 500, 10
    module = enn.embedding("tt", n, dim, cores=cores, rank=6).double()
    sizes = module.method.row_sizes(TableShape(n, dim))
    slices = [core.detach().numpy() for core in module.cores]
    ids = np.random.default_rng(0).integers(0, n, 50)
    rows = module(torch.from_numpy(ids)).detach().numpy()
    for x, row in zip(ids, rows, strict=True):
        product = np.ones((1, 1))
        for core, digit in zip(slices, np.unravel_index(x, sizes), strict=True):
            product = np.einsum("ar,rqs->aqs", product, core[digit]).reshape(-1, core.shape[3])
        np.testing.assert_allclose(row, product.reshape(-1)[:dim], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cores", [2, 3, 4])
@pytest.mark.parametrize("rank", [1, 8, 60])
def test_rows_start_with_the_variance_of_a_full_table(cores, rank):
    n, dim = 40_000, 16
    stds = []
    for seed in range(5):
        module = enn.embedding("tt", n, dim, cores=cores, rank=rank, seed=seed)
        with torch.no_grad():
            stds.append(module(torch.arange(0, n, 7)).std().item())
    assert np.sqrt(np.square(stds).mean()) == pytest.approx((1 / n / 3) ** 0.5, rel=0.15)


def test_no_value_of_a_core_starts_near_zero():
    module = enn.embedding("tt", 1000, 16, rank=8)
    for core in module.cores:
        magnitudes = core.detach().abs()
        # |z| >= 2 of a variance of 5.75: nothing below 0.834 standard deviations.
        assert magnitudes.min() / magnitudes.square().mean().sqrt() == pytest.approx(0.834, rel=0.05)
        assert 0.4 < (core > 0).float().mean() < 0.6


def test_gradients_add_up_over_shared_slices():
    module = enn.embedding("tt", 64, 4, cores=3, rank=2).double()
    ids = torch.tensor([0, 1, 1, 5, 63])
    module(ids).sum().backward()
    together = [core.grad.clone() for core in module.cores]
    module.zero_grad()
    for i in ids:
        module(i[None]).sum().backward()
    for core, grad in zip(module.cores, together, strict=True):
        torch.testing.assert_close(core.grad, grad)


def test_a_table_too_large_to_fit_can_be_trained(tmp_path):
    shape = TableShape(10**8, 64)
    with pytest.raises(errors.ConfigError, match="fitting tt"):
        TT(cores=2, rank=2).check_fit(shape)
    module = enn.embedding("tt", *(10**8, 64), cores=2, rank=2).eval()
    ids = torch.tensor([0, 99_999_999, 12_345_678])
    table = module.export(tmp_path / "t")
    rows = module(ids).detach().numpy()
    np.testing.assert_allclose(table.lookup(ids.numpy()), rows, atol=1e-6 * np.abs(rows).max())


def test_as_few_cores_as_the_budget_allows():
    shape = TableShape(10_000, 16)
    floors = {cores: nbytes(TT(rank=1, cores=cores), shape) for cores in (2, 3, 4)}
    for cores, floor in floors.items():
        found = enn.embedding("tt", 10_000, 16, budget=floor).method
        assert (found.cores, found.rank) == (cores, 1)
    with pytest.raises(errors.BudgetError, match=f"at least {floors[4]:,} bytes"):
        enn.embedding("tt", 10_000, 16, budget=floors[4] - 1)
    with pytest.raises(errors.BudgetError, match=f"at least {floors[3]:,} bytes"):
        enn.embedding("tt", 10_000, 16, budget=floors[3] - 1, cores=3)


@pytest.mark.parametrize("ratio", [0.1, 0.01])
def test_codes_reach_higher_ranks(ratio, tmp_path):
    n, dim = 100_000, 16
    floats, codes = (
        enn.embedding("tt", n, dim, budget=ratio, cores=3, core_dtype=kind) for kind in ("float32", "int8")
    )
    assert 1.8 < codes.method.rank / floats.method.rank < 2.2  # the middle core grows with its square
    table = codes.eval().export(tmp_path / "t")
    assert table.nbytes == codes.nbytes_inference() <= ratio * 4 * n * dim
    assert codes.nbytes_inference() > 0.9 * ratio * 4 * n * dim
    assert floats.method.config() == {"rank": floats.method.rank, "cores": 3}  # as before there were codes


def test_codes_are_near_the_floats():
    """One step of 127 for the largest of a slice: each core adds about 0.5 % to the error of a row."""
    module = enn.embedding("tt", 5000, 16, rank=40, core_dtype="int8")
    ids = torch.arange(5000)
    with torch.no_grad():
        floats, codes = module.train()(ids), module.eval()(ids)
    lost = ((codes - floats).square().mean() / floats.square().mean()).sqrt().item()
    assert 0.002 < lost < 0.02


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01])
def test_budgets_are_kept_and_spent(ratio):
    shape = TableShape(100_000, 16)
    method = enn.embedding("tt", 100_000, 16, budget=ratio).method
    more = TT(rank=method.rank + 1, cores=method.cores)
    assert nbytes(method, shape) <= ratio * shape.nbytes_float32 < nbytes(more, shape)
