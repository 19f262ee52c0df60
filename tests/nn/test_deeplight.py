"""deeplight: the schedule of the adaptive sparse rate, who is pruned, and who may come back."""

import itertools

import numpy as np
import pytest

from embstore import errors
from tests.nn.pruning import DIM, N, enn, make, target, torch

CELLS = N * DIM


def zeros_by_step(module, steps, told):
    """How many values are zero after each step of a stage that does not change the weights."""
    module.begin_stage("prune", told)
    found = []
    for step in range(steps):
        module.before_step(step)
        module.after_step(step)
        with torch.no_grad():
            found.append(int((module(torch.arange(N)) == 0).sum()))
    return found


@pytest.mark.parametrize("regrow", [True, False])
def test_the_sparse_rate(regrow):
    """S (1 - 0.99^(t / 100)) with the paper's 68,732 steps, at every tenth step."""
    module = make("deeplight", density=0.1, steps=68_732, warm_up=20, regrow=regrow)
    found = zeros_by_step(module, 400, None)
    assert found[:29] == [0] * 29
    for step in range(30, 401, 10):
        assert found[step - 1] == int(0.9 * CELLS * (1 - 0.99 ** ((step - 20) / 100)))
    assert found[30:39] == [found[29]] * 9


def test_the_schedule_fits_the_stage():
    module = make("deeplight", density=0.1, every=1)
    found = zeros_by_step(module, 80, 80)
    assert found[19] == 0 < found[20]
    assert 0.998 * 0.9 * CELLS < found[59] <= found[79] < 0.9 * CELLS
    assert all(a <= b for a, b in itertools.pairwise(found))
    module.end_of_stage("prune")
    assert int((module(torch.arange(N)) == 0).sum()) == CELLS - int(0.1 * CELLS)


def test_the_smallest_of_the_whole_table_go():
    module = make("deeplight", density=0.25)
    magnitudes = module.weight.detach().abs().flatten()
    module.end_of_stage("prune")
    kept = module.mask.flatten()
    assert kept.sum() == CELLS // 4 and magnitudes[kept].min() >= magnitudes[~kept].max()


@pytest.mark.parametrize("regrow", [True, False])
def test_pruned_weights_may_grow_back(regrow):
    module = make("deeplight", density=0.5, steps=1, warm_up=0, every=1, regrow=regrow)
    module.begin_stage("prune", 3)
    module.after_step(0)
    gone = module(torch.arange(N)) == 0
    assert 0.49 * CELLS < int(gone.sum()) <= 0.5 * CELLS
    with torch.no_grad():
        module.weight[gone] = 100
    module.after_step(1)
    assert int((module(torch.arange(N)) == 100).sum()) == (int(gone.sum()) if regrow else 0)


def test_what_matters_survives():
    """Trained towards a sparse target, the values that it has are the values kept."""
    wanted = torch.where(torch.from_numpy(np.random.default_rng(3).random((N, DIM)) < 0.2), target() + 2, 0)
    module = make("deeplight", density=0.2)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    module.begin_stage("prune", 200)
    for step in range(200):
        module.before_step(step)
        optimizer.zero_grad()
        (module(torch.arange(N)) - wanted).square().mean().backward()
        optimizer.step()
        module.after_step(step)
    module.end_of_stage("prune")
    assert (module.mask & (wanted != 0)).sum() > 0.95 * min(module.kept, int((wanted != 0).sum()))


@pytest.mark.parametrize("option", [{"steps": 0}, {"warm_up": -1}, {"every": 1.5}, {"every": None}, {"steps": True}])
def test_refused(option):
    with pytest.raises(errors.ConfigError, match=f"{next(iter(option))} of deeplight must be an integer from"):
        enn.embedding("deeplight", 100, 4, **option)
