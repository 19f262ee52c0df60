"""OptEmbed: thresholds and their surrogate gradient, widths by evolution, and the bytes of what is kept."""

import itertools

import numpy as np
import pytest

import embstore
from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from embstore.nn.optembed import _Step  # noqa: E402

IDS = torch.arange(200)


def test_surrogate_gradient():
    z = torch.tensor([-1.5, -0.7, -0.2, 0.0, 0.1, 0.4, 0.41, 1.0, 1.1], requires_grad=True)
    kept = _Step.apply(z)
    kept.sum().backward()
    assert kept.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    torch.testing.assert_close(z.grad, torch.tensor([0, 0.4, 1.2, 2, 1.6, 0.4, 0.4, 0.4, 0]))


def test_each_sample_has_a_prefix_of_its_row():
    module = enn.embedding("optembed", 200, 8)
    ids = torch.zeros(4000, dtype=torch.int64)
    rows = module(ids).detach()
    widths = (rows != 0).sum(dim=1)
    whole = module.eval()(ids[:1]).detach()
    assert torch.equal(rows, whole * (torch.arange(8) < widths[:, None]))
    assert (torch.bincount(widths, minlength=9)[1:] > 400).all() and widths.min() == 1


def test_the_threshold_rises_where_rows_are_not_missed():
    module = enn.embedding("optembed", 200, 8, penalty=0.01, threshold_lr=0.5)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0, 2, 200)[:, None].expand(200, 8) / 8)
    for step in range(20):
        module.before_step(step)
        (0 * module(IDS)).sum().backward()
        module.after_step(step)
    assert float(module.threshold) == pytest.approx(20 * 0.5 * 0.01, rel=0.1)
    module.end_of_stage("search")
    norms = module.weight.detach().abs().sum(dim=1)
    assert torch.equal(module.kept, norms > module.threshold) and 0 < int((~module.kept).sum()) < 30
    with torch.no_grad():
        assert torch.equal(module(IDS).abs().sum(dim=1) > 0, module.kept)


def test_the_threshold_falls_where_rows_are_missed():
    module = enn.embedding("optembed", 200, 8, penalty=0.0)
    with torch.no_grad():
        module.weight.fill_(0.02)
        module.threshold.fill_(0.1)
    before = float(module.threshold)
    (-module(IDS).sum()).backward()  # larger rows, smaller loss
    module.after_step(0)
    assert float(module.threshold) < before


def past_search(module, drop=0):
    with torch.no_grad():
        for field in getattr(module, "fields", [module]):
            field.weight[:drop] = 0
    module.end_of_stage("search")
    return module


def test_gradients_once_rows_are_fixed():
    module = past_search(enn.embedding("optembed", 30, 4).double(), drop=5)
    module.end_of_stage("evolve")
    module.width.fill_(3)
    ids = torch.tensor([0, 7, 7, 29])
    torch.autograd.gradcheck(lambda w: module(ids), [module.weight], eps=1e-6, atol=1e-5)
    module(ids).sum().backward()
    assert module.weight.grad[0].tolist() == [0] * 4 and module.weight.grad[7].tolist() == [2, 2, 2, 0]


SIZES = [300, 200, 400, 100, 250]


def evolved(budget, value, **config):
    module = past_search(enn.embedding("optembed", embedding_dim=8, field_sizes=SIZES, budget=budget, **config))
    seen = []
    for candidate in module.candidates():
        assert [int(field.width) for field in module.fields] == list(candidate)
        assert module.nbytes_inference() <= (budget or 2) * 32 * sum(SIZES)
        seen.append(candidate)
        module.score(candidate, value(candidate))
    module.end_of_stage("evolve")
    best = tuple(int(field.width) for field in module.fields)
    assert len(set(seen)) == len(seen) and value(best) == max(value(c) for c in seen)
    return best, seen


def test_evolution_finds_the_best_widths():
    wanted = (3, 8, 1, 5, 6)

    def value(widths):
        return -sum((a - b) ** 2 for a, b in zip(widths, wanted, strict=True))

    best, seen = evolved(None, value)
    assert 300 < len(seen) <= 600
    assert value(best) >= -2
    first, later = seen[:20], seen[-20:]
    assert np.mean([value(c) for c in later]) > np.mean([value(c) for c in first]) + 20


def test_evolution_stays_within_the_budget():
    best, _ = evolved(0.5, lambda widths: sum(widths), generations=10)
    nbytes = sum(4 * n * w for n, w in zip(SIZES, best, strict=True))
    assert nbytes > 0.42 * 32 * sum(SIZES)


def test_a_field_of_few_widths_is_searched_whole():
    module = past_search(enn.embedding("optembed", 50, 4))
    seen = []
    for candidate in module.candidates():
        seen.append(candidate)
        module.score(candidate, -abs(candidate[0] - 2))
    module.end_of_stage("evolve")
    assert sorted(seen) == [(1,), (2,), (3,), (4,)] and int(module.width) == 2


def test_without_scores_the_widths_are_the_largest_that_fit():
    module = past_search(enn.embedding("optembed", embedding_dim=8, field_sizes=SIZES, budget=0.7))
    module.end_of_stage("evolve")
    assert {int(field.width) for field in module.fields} == {5}


@pytest.mark.parametrize(("drop", "width"), list(itertools.product([0, 1, 64, 200], [1, 3, 8])))
def test_only_what_is_kept_is_stored(drop, width, tmp_path):
    dim = 8
    module = past_search(enn.embedding("optembed", 200, dim), drop)
    with pytest.raises(errors.ConfigError, match="before its evolution ends"):
        module.export(tmp_path / "t")
    module.end_of_stage("evolve")
    module.width.fill_(width)
    table = module.export(tmp_path / "t")
    assert table.nbytes == module.nbytes_inference() <= 200 * 4 * width + 4 * dim * (width + 1) + 24
    if (drop, width) == (64, 8):
        tags = 4 * (8 + 8)  # for every 64 rows a bit each, and two ranks
        assert table.nbytes == 136 * 32 + 64 * 4 + 32 + 24 + tags
    with torch.no_grad():
        rows = module.eval()(IDS).numpy()
    assert (rows[:drop] == 0).all() and (rows[:, width:] == 0).all()
    for read in (table, embstore.Table(table._stored, backend="numpy")):
        assert np.array_equal(read.lookup(np.arange(200)), rows)


def test_the_floor_holds_whatever_is_dropped():
    shape_floor = 200 * 4 + 24 + 2 * 32  # one value a row, two projections of one row each
    with pytest.raises(errors.BudgetError, match=f"at least {shape_floor:,} bytes"):
        enn.embedding("optembed", 200, 8, budget=shape_floor - 1)
    module = enn.embedding("optembed", 200, 8, budget=shape_floor)
    with torch.no_grad():
        module.weight[::3] = 0
    module.end_of_stage("search")
    module.end_of_stage("evolve")
    assert int(module.kept.sum()) == 133 and module.nbytes_inference() <= shape_floor


def test_the_state_goes_on_where_it_was():
    module = past_search(enn.embedding("optembed", 200, 8), drop=20)
    module.end_of_stage("evolve")
    module.width.fill_(5)
    other = enn.embedding("optembed", 200, 8, seed=3)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(IDS), module(IDS)) and other.nbytes_inference() == module.nbytes_inference()


@pytest.mark.parametrize("option", [{"penalty": -1}, {"threshold_lr": "1"}, {"generations": 1.5}, {"population": 1}])
def test_refused(option):
    with pytest.raises(errors.ConfigError, match=next(iter(option))):
        enn.embedding("optembed", 100, 8, **option)


def test_the_threshold_learns_of_all_forward_passes_of_a_step():
    def moved(passes):
        module = enn.embedding("optembed", 200, 8, penalty=0.0)
        with torch.no_grad():
            module.weight.fill_(0.02)
            module.threshold.fill_(0.1)
        module.before_step(0)
        sum(-module(IDS[at]).sum() for at in passes).backward()
        module.after_step(0)
        return 0.1 - float(module.threshold)

    assert moved([slice(0, 100), slice(100, 200)]) > 1.5 * moved([slice(0, 100)]) > 0
