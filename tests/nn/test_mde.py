"""Mixed dimensions: the rule's known values, budgets over fields, blocks by frequency."""

import numpy as np
import pytest

from embstore import errors
from embstore.arrays import TableShape
from embstore.methods.mixed_dim import MixedDim, popular_dims
from tests.nn.field_sizes import AVAZU, CRITEO

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from embstore.nn._joint import least  # noqa: E402
from embstore.nn._narrow import narrow_nbytes  # noqa: E402
from embstore.nn.mde import MdeFields  # noqa: E402


# What the code of the survey (arXiv 2311.15578) finds at 16 dimensions and powers of two, counting a projection for
# every field below 16. Its bisection ends with the last alpha it tried, which may be the one that is just not enough.
@pytest.mark.parametrize(
    ("sizes", "ratio", "alpha", "reached"),
    [(CRITEO, 0.5, 0.0703, 0.5), (CRITEO, 0.1, 0.1602, 0.0929), (AVAZU, 0.5, 0.0742, 0.5), (AVAZU, 0.1, 0.166, 0.081)],
)
def test_alpha_of_the_survey(sizes, ratio, alpha, reached):
    n = np.array(sizes)

    def dims(t):
        return popular_dims(1 / n, 16, t, powers=True)

    def share(t):
        return (n * dims(t) + np.where(dims(t) < 16, 16 * dims(t), 0)).sum() / (16 * n.sum())

    found = least(lambda t: share(t) <= ratio, tolerance=1e-3)
    tried = found if share(alpha) <= ratio else found - 2**-10
    assert tried == pytest.approx(alpha, abs=5e-5)
    assert share(tried) == pytest.approx(reached, abs=5e-5)
    assert share(found) <= ratio
    if (sizes, ratio) == (CRITEO, 0.1):
        known = [8, 8, 1, 2, 8, 8, 4, 8, 16, 4, 4, 1, 4, 8, 4, 2, 16, 4, 8, 16, 2, 16, 16, 4, 8, 4]
        assert dims(found).tolist() == known


def plan(sizes, ratio, **config):
    """(dimensions of the fields, share of the float32 bytes)."""
    shapes = [TableShape(n, 16) for n in sizes]
    full = sum(shape.nbytes_float32 for shape in shapes)
    found = MdeFields.plan(shapes, None if ratio is None else int(ratio * full), config)
    dims = [16 if own is None else own["dims"] for own in found]
    bytes_ = sum(
        shape.nbytes_float32 if own is None else narrow_nbytes(shape, own["dims"], own["table_dtype"])
        for shape, own in zip(shapes, found, strict=True)
    )
    return dims, bytes_ / full


@pytest.mark.parametrize("sizes", [CRITEO, AVAZU, [6040, 3260], [957, 4082, 7, 7, 2, 3, 2, 9, 80, 233], [1000] * 3])
@pytest.mark.parametrize("config", [{}, {"powers": True}, {"alpha": 0.3}, {"alpha": 0.0}])
def test_budgets_of_fields(sizes, config):
    before = None
    for ratio in (1.0, 0.5, 0.25, 0.15):
        dims, reached = plan(sizes, ratio, **config)
        assert reached <= ratio
        assert before is None or all(a >= b for a, b in zip(before, dims, strict=True))
        assert sorted(dims, reverse=True) == [d for _, d in sorted(zip(sizes, dims, strict=True))]  # popular is wider
        before = dims
    if config == {}:
        assert plan([6040, 3260], 0.5)[1] > 0.4


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_codes_leave_room_for_more_dims(kind, tmp_path):
    sizes = [6040, 3260]
    for ratio in (0.5, 0.25, 0.15):
        floats, _ = plan(sizes, ratio)
        coded, reached = plan(sizes, ratio, table_dtype=kind)
        assert reached <= ratio
        assert sum(coded) > 1.5 * sum(floats) or coded == [16, 16]
    module = enn.embedding("mde", embedding_dim=16, field_sizes=sizes, budget=0.25, table_dtype=kind).eval()
    assert {field.method.values for field in module.fields} == {kind}
    tables = module.export(tmp_path / "set")
    assert tables.nbytes == module.nbytes_inference() <= 0.25 * 64 * sum(sizes)


def test_codes_by_frequency():
    counts = np.random.default_rng(0).zipf(1.3, 3000).astype(float)
    modules = [enn.embedding("mde", 3000, 16, counts=counts, budget=0.2, table_dtype=k) for k in ("float32", "int8")]
    widths = [np.array([table.shape[1] for table in module.tables]) for module in modules]
    assert all(module.nbytes_inference() <= 0.2 * 64 * 3000 for module in modules)
    assert (widths[1] >= widths[0]).all() and widths[1].sum() > 1.5 * widths[0].sum()
    one = enn.embedding("mde", 5000, 16, blocks=1, budget=0.25, table_dtype="int8")
    assert [tuple(t.shape) for t in one.tables] == [(5000, 10)]  # rows of 14 bytes, which are even: 16 less projection


def test_fields_that_do_not_shrink_stay_full():
    full = [TableShape(n, 16).nbytes_float32 for n in (10_000, 4, 9)]
    module = enn.embedding("mde", embedding_dim=16, field_sizes=[10_000, 4, 9], budget=0.1)
    assert [field.id for field in module.fields] == ["mde", "float32", "float32"]
    assert module.nbytes_inference() <= 0.1 * sum(full)


def test_the_floor_is_named():
    sizes = [6040, 3260]
    floor = sum(narrow_nbytes(TableShape(n, 16), 1) for n in sizes)
    with pytest.raises(errors.BudgetError, match=f"at least {floor:,} bytes"):
        enn.embedding("mde", embedding_dim=16, field_sizes=sizes, budget=floor - 1)
    module = enn.embedding("mde", embedding_dim=16, field_sizes=sizes, budget=floor)
    assert module.nbytes_inference() == floor
    one = narrow_nbytes(TableShape(1000, 16), 1)
    with pytest.raises(errors.BudgetError, match=f"at least {one:,} bytes"):
        enn.embedding("mde", 1000, 16, blocks=1, budget=one - 1)
    assert enn.embedding("mde", 1000, 16, blocks=1, budget=one).nbytes_inference() == one
    with pytest.raises(errors.BudgetError, match="at least"):
        enn.embedding("mde", 1000, 16, dims=8, budget=0.4)


def test_blocks_are_those_of_mixed_dim():
    counts = np.random.default_rng(0).zipf(1.3, 3000).astype(float)
    for budget in (0.5, 0.2):
        module = enn.embedding("mde", 3000, 16, counts=counts, budget=budget)
        assert module.nbytes_inference() <= budget * 64 * 3000
        group, dims = MixedDim(values="float32", limit=int(budget * 64 * 3000)).blocks_of(TableShape(3000, 16), counts)
        assert [table.shape[1] for table in module.tables] == dims.tolist()
        assert np.array_equal(module.group.numpy(), group)
        assert dims[0] > dims[-1] and counts[group == 0].min() >= counts[group == 7].max()


def test_one_block_takes_what_the_budget_leaves():
    module = enn.embedding("mde", 5000, 16, blocks=1, budget=0.4)
    assert [tuple(t.shape) for t in module.tables] == [(5000, 6)]
    assert len(enn.embedding("mde", 5000, 16, blocks=1).projections) == 0  # full rows


@pytest.mark.parametrize("dims", [1, 4, 16])
def test_rows_start_as_their_own_values(dims):
    module = enn.embedding("mde", 2000, 16, dims=dims)
    with torch.no_grad():
        rows = module(torch.arange(2000))
    gain = 1 if dims == 16 else float(module.projections[0].detach()[0, 0])
    assert torch.equal(rows[:, :dims], gain * module.tables[0]) and not rows[:, dims:].any()
    assert rows[:, :dims].std() == pytest.approx(gain * (1 / 2000 / 3) ** 0.5, rel=0.05)


def test_refused():
    for config, text in (
        ({}, "pass counts="),
        ({"dims": 17}, "from 1 to 16"),
        ({"dims": 4, "blocks": 2}, "blocks 2"),
        ({"values": "float16"}, "values"),
        ({"dims": 4, "table_dtype": "float16"}, "table_dtype of mde must be"),
    ):
        with pytest.raises(errors.ConfigError, match=text):
            enn.embedding("mde", 100, 16, **config)
    with pytest.raises(errors.ConfigError, match="alpha, powers and table_dtype, found 'blocks'"):
        enn.embedding("mde", embedding_dim=16, field_sizes=[100, 50], blocks=2)
