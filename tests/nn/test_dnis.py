"""dnis: autosrh with gates of blocks, unequal groups, and no warm-up."""

import numpy as np

from tests.nn.pruning import N, enn, learn, make, target, torch


def test_it_begins_with_the_search():
    assert [stage.name for stage in make("dnis").stages()] == ["search", "retrain"]


def test_blocks_and_groups():
    module = enn.embedding("dnis", 100, 16, counts=np.arange(100))
    assert module.gates.shape == (5, 4)
    assert module.group.bincount().tolist() == [10, 20, 20, 20, 30] and module.group[99] == 0
    assert module.block.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_blocks_that_matter_are_kept():
    """Targets of half the dims are 0: their gates close and their values go."""
    wanted = target()
    wanted[:, 4:] = 0
    module = make("dnis", density=0.4, gate_lr=0.05)
    learn(module, wanted, 60)
    assert module.gates[:, :2].mean() > module.gates[:, 2:].mean()
    assert module.mask[:, :4].sum() > 0.95 * module.kept
    assert (module(torch.arange(N))[:, :4] - wanted[:, :4])[module.mask[:, :4]].abs().mean() < 0.1
