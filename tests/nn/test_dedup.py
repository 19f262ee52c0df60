"""Shared blocks: stages, who is merged, budgets, and what a state holds."""

import numpy as np
import pytest

from embstore import errors
from embstore.method import nbytes
from embstore.methods.dedup import PLACES

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from embstore.nn.dedup import merged  # noqa: E402


def past_warm_up(module):
    module.end_of_stage("warm-up")
    return module


def test_stages_and_what_each_trains(tmp_path):
    module = enn.embedding("dedup", 400, 8, budget=0.5)
    assert [stage.name for stage in module.stages()] == ["warm-up", "retrain"]
    assert [p.shape for p in module.parameters()] == [(400, 8)]
    with pytest.raises(errors.ConfigError, match=r"end_of_stage\('warm-up'\)"):
        module.export(tmp_path / "t")
    size = module.nbytes_inference()
    past_warm_up(module)
    (blocks,) = module.parameters()
    places = module.place.numel() * np.dtype(module.method.place_dtype).itemsize
    assert blocks.numel() * 4 + places == size == module.nbytes_inference()
    module.end_of_stage("retrain")
    assert module.export(tmp_path / "t").nbytes == size


@pytest.mark.parametrize(
    "config", [{}, {"block_dims": 3}, {"block_rows": 4}, {"block_rows": 7, "block_dims": 5}], ids=str
)
def test_merged_blocks_are_means(config):
    """Every block is the mean of the cells that share it, and its gradient the sum of theirs."""
    module = enn.embedding("dedup", 101, 12, budget=0.6, **config).double()
    full = module(torch.arange(101)).detach()
    past_warm_up(module)
    rows = module(torch.arange(101))
    method = module.method
    height, width = method.block_rows, method.block_dims
    for block in range(0, len(module.blocks), 5):
        places = (module.place == block).nonzero()
        assert len(places)
        cells = []
        for i, j in places.tolist():
            cell = torch.zeros(height, width, dtype=torch.float64)
            part = full[i * height : (i + 1) * height, j * width : (j + 1) * width]
            cell[: part.shape[0], : part.shape[1]] = part
            cells.append(cell)
        torch.testing.assert_close(module.blocks[block].reshape(height, width), torch.stack(cells).mean(0))
    ids = torch.tensor([0, 5, 5, 100])
    torch.autograd.gradcheck(lambda *_: module(ids), list(module.parameters()), nondet_tol=1e-9, fast_mode=True)
    assert rows.shape == (101, 12)


def test_what_is_alike_is_merged_first():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((30, 6))
    which = rng.integers(0, 30, 500)
    place = merged(centers[which] + 1e-4 * rng.standard_normal((500, 6)), np.ones(500), 30)
    assert len({(a, b) for a, b in zip(which, place, strict=True)}) == len(set(which)) == len(set(place))


@pytest.mark.parametrize("kept", [1, 2, 37, 199, 200])
def test_as_many_groups_as_asked_for(kept):
    rng = np.random.default_rng(0)
    for cells in (rng.standard_normal((200, 3)), np.zeros((200, 3)), rng.integers(0, 2, (200, 2)).astype(float)):
        assert np.array_equal(np.unique(merged(cells, np.ones(200), kept)), np.arange(kept))


def test_error_falls_with_more_groups():
    cells = np.random.default_rng(0).standard_normal((300, 4))
    errors_, last = [], np.inf
    for kept in (1, 3, 10, 40, 150, 300):
        place = merged(cells, np.ones(300), kept)
        own = np.stack([cells[place == g].mean(axis=0) for g in range(kept)])
        errors_.append(np.square(cells - own[place]).sum())
        assert errors_[-1] < last
        last = errors_[-1]
    assert errors_[0] == pytest.approx(np.square(cells - cells.mean(axis=0)).sum()) and errors_[-1] < 1e-20


def test_frequent_rows_keep_their_values():
    counts = np.ones(300)
    counts[:20] = 10_000
    module = enn.embedding("dedup", 300, 8, budget=0.3, block_rows=1, counts=counts)
    before = module(torch.arange(20)).detach()
    past_warm_up(module)
    assert len(torch.unique(module.place[:20])) == 20
    assert (module(torch.arange(20)) - before).abs().max() < 0.01 * before.abs().max()


def test_untrained_rows_become_one():
    """Rows that no batch had stay where they began, near zero, and take few blocks."""
    module = enn.embedding("dedup", 1000, 8, budget=0.2, block_rows=1, place_dtype="uint32")
    with torch.no_grad():
        module.weight[:100] = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    past_warm_up(module)
    assert len(module.blocks) == 75
    assert len(torch.unique(module.place[:100])) >= 70 and len(torch.unique(module.place[100:])) <= 6


@pytest.mark.parametrize("n", [1, 40, 5000])
@pytest.mark.parametrize("dim", [1, 5, 16, 300])
def test_budgets_are_kept_and_spent(n, dim):
    for ratio in (0.9, 0.5, 0.2, 0.05, 0.004):
        limit = int(4 * n * dim * ratio)
        try:
            module = enn.embedding("dedup", n, dim, budget=max(limit, 1))
        except errors.BudgetError as error:
            floor = int(str(error).split("at least ")[1].split(" bytes")[0].replace(",", ""))
            assert limit < floor
            assert enn.embedding("dedup", n, dim, budget=floor).nbytes_inference() == floor
            continue
        method = module.method
        block = 4 * method.block_rows * method.block_dims
        size, most = module.nbytes_inference(), PLACES[method.place_dtype]
        assert size <= limit and (size > limit - block or method.free_sizes(module.shape)["unique"] == most)
        assert method.limit == limit and nbytes(method, module.shape) == module.nbytes_inference()


def test_without_a_budget_a_tenth():
    module = enn.embedding("dedup", 5000, 16)
    assert 0.07 < module.nbytes_inference() / (4 * 5000 * 16) <= 0.1
    assert (
        enn.embedding("dedup", 5000, 16, limit=100_000).method
        == enn.embedding("dedup", 5000, 16, budget=100_000).method
    )


def test_smaller_budgets_take_larger_blocks():
    sizes = []
    for ratio in (0.5, 0.25, 0.1, 0.04, 0.01):
        method = enn.embedding("dedup", 20_000, 16, budget=ratio).method
        sizes.append(method.block_rows * method.block_dims)
    assert sizes == sorted(sizes) and sizes[0] < 16 < sizes[-1]


def test_a_state_brings_its_stage():
    make = lambda seed: enn.embedding("dedup", 90, 8, budget=0.5, seed=seed)  # noqa: E731
    ids = torch.arange(90)
    merged_one, fresh = past_warm_up(make(1)), make(2)
    fresh.load_state_dict(merged_one.state_dict())
    assert torch.equal(fresh(ids), merged_one(ids)) and len(list(fresh.parameters())) == 1
    other = make(3)
    fresh.load_state_dict(other.state_dict())
    assert torch.equal(fresh(ids), other(ids)) and fresh.weight is not None
    assert torch.equal(past_warm_up(fresh)(ids), past_warm_up(other)(ids))


def test_refused():
    with pytest.raises(errors.ConfigError, match="values of module 'dedup' must be 'float32'"):
        enn.embedding("dedup", 50, 8, values="float16")
    with pytest.raises(errors.ConfigError, match="block_rows"):
        enn.embedding("dedup", 50, 8, block_rows=0)
