"""pep: soft thresholds of every granularity, led to the budget by their scale, and the lottery ticket."""

import numpy as np
import pytest

from embstore import errors
from tests.nn.pruning import DIM, N, enn, learn, make, target, torch

CELLS = N * DIM
FIELDS = (100, 20, 180)
SHAPES = {
    "global": (1, 1),
    "dim": (1, DIM),
    "field": (3, 1),
    "field-dim": (3, DIM),
    "feature": (N, 1),
    "feature-dim": (N, DIM),
}


def drawn(per, scale=0.05):
    """A module with thresholds at random."""
    module = make("pep", per=per, fields=FIELDS)
    with torch.no_grad():
        module.thresholds.uniform_(-2, 2, generator=torch.Generator().manual_seed(1))
        module.scale.fill_(scale)
    return module


@pytest.mark.parametrize("per", SHAPES)
def test_rows_are_shrunk(per):
    module = drawn(per)
    assert module.thresholds.shape == SHAPES[per]
    s = module.thresholds.detach().numpy()
    if per.startswith("field"):
        s = np.repeat(s, FIELDS, axis=0)
    v = module.weight.detach().numpy()
    want = np.sign(v) * np.maximum(np.abs(v) - 0.05 / (1 + np.exp(-s)), 0)
    found = module(torch.arange(N)).detach().numpy()
    assert 0.1 * CELLS < (want == 0).sum() < 0.9 * CELLS
    np.testing.assert_allclose(found, want, atol=1e-7)


@pytest.mark.parametrize("per", SHAPES)
def test_gradients_of_thresholds(per):
    module = drawn(per).double()
    ids = torch.tensor([0, 99, 100, 119, 120, 299, 299])
    inputs = [module.weight, module.thresholds]
    torch.autograd.gradcheck(lambda *_: module(ids), inputs, fast_mode=True, nondet_tol=1e-9)
    gradient = torch.autograd.grad(module(ids).square().sum(), module.thresholds)[0]
    assert torch.count_nonzero(gradient) > 0


@pytest.mark.parametrize("per", SHAPES)
def test_the_scale_leads_to_the_budget(per):
    module = make("pep", per=per, density=0.2, every=1, warm_up=0, fields=FIELDS)
    module.begin_stage("search", 100)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    before = CELLS
    for step in range(100):
        optimizer.zero_grad()
        (module(torch.arange(N)) - target()).square().mean().backward()
        optimizer.step()
        module.after_step(step)
        above = int((module(torch.arange(N)) != 0).sum())
        assert abs(above - module._kept_after(step + 1)) <= 2
        assert above <= before + 2
        before = above
    assert abs(above - 0.2 * CELLS) < 0.002 * CELLS
    assert module.thresholds.detach().abs().max() > 0.01
    active = module(torch.arange(N)) != 0
    module.end_of_stage("search")
    assert (active & module.mask).sum() == module.kept


def test_the_schedule_fits_the_stage():
    module = make("pep", density=0.1, every=1)
    module.begin_stage("search", 80)
    found = []
    for step in range(80):
        module.after_step(step)
        with torch.no_grad():
            found.append(int((module(torch.arange(N)) == 0).sum()))
    assert found[39] == 0 < found[40]
    assert 0.998 * 0.9 * CELLS < found[63] <= found[79] < 0.9 * CELLS


def test_the_ticket_begins_anew():
    first = make("pep", budget=0.3).weight.detach().clone()
    module = make("pep", budget=0.3)
    stages = module.stages()
    module.stages = lambda: stages[:1]
    learn(module, target(), 30)
    del module.stages
    assert [stage.name for stage in module.stages()] == ["search", "retrain"]
    assert torch.equal(module.weight, first) and int(module.mask.sum()) == module.kept
    assert torch.equal(module(torch.arange(N)), torch.where(module.mask, first, 0))


def test_or_goes_on_with_its_weights():
    module = make("pep", density=0.3, rewind=False)
    with torch.no_grad():
        module.scale.fill_(0.02)
    before = module(torch.arange(N)).detach()
    module.end_of_stage("search")
    assert torch.equal(module(torch.arange(N)), torch.where(module.mask, before, 0))


def test_thresholds_decide_who_goes():
    """Equal weights: those under the larger threshold go first."""
    module = make("pep", per="dim", density=0.5)
    with torch.no_grad():
        module.weight.fill_(0.1)
        module.thresholds.copy_(torch.arange(DIM))
    module.end_of_stage("search")
    assert module.mask[:, : DIM // 2].all() and not module.mask[:, DIM // 2 :].any()


@pytest.mark.parametrize(("option", "text"), [({"per": "row"}, "per of pep"), ({"every": 0}, "every of pep")])
def test_refused(option, text):
    with pytest.raises(errors.ConfigError, match=text):
        enn.embedding("pep", 100, 4, **option)
