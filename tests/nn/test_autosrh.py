"""autosrh: groups by frequency, gates that learn from validation batches alone, the product decides."""

import numpy as np
import pytest

from embstore import errors
from tests.nn.pruning import DIM, N, enn, make, torch

frequency_groups = pytest.importorskip("embstore.nn.autosrh").frequency_groups


def test_groups_by_frequency():
    counts = np.array([5, 100, 7, 6, 1, 50])
    assert frequency_groups(counts, (1 / 3,) * 3).tolist() == [2, 0, 1, 1, 2, 0]
    assert frequency_groups(counts, (0.5, 0.5)).tolist() == [1, 0, 0, 1, 1, 0]
    assert frequency_groups(counts, (1.0,)).tolist() == [0] * 6


def test_equal_counts_stay_together():
    counts = np.concatenate([[9, 8, 7], np.ones(7)])
    found = frequency_groups(counts, (0.2,) * 5)
    assert found[:3].tolist() == [0, 0, 1] and set(found[3:].tolist()) == {3}
    assert set(frequency_groups(np.zeros(10), (0.25,) * 4).tolist()) == {1}


def searching(**options):
    module = make("autosrh", **options)
    module.end_of_stage("warm-up")
    return module


def one_step(module, validation, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(module.parameters(), 0.1)
    module.before_step(0, validation)
    optimizer.zero_grad()
    loss = (module(torch.arange(N)) - 1).square().sum()
    loss.backward()
    optimizer.step()
    module.after_step(0)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_each_learns_from_its_own_batches(optimizer):
    module = searching()
    made = optimizer(module.parameters(), 0.1)
    weight, gates = module.weight.detach().clone(), module.gates.clone()
    one_step(module, validation=False, optimizer=made)
    assert torch.equal(module.gates, gates) and not torch.equal(module.weight, weight)
    weight = module.weight.detach().clone()
    one_step(module, validation=True, optimizer=made)  # moments of Adam move nothing either
    assert torch.equal(module.weight, weight) and not torch.equal(module.gates, gates)


def test_the_update_of_gates():
    module = searching(groups=3, gate_lr=0.01, l1=0.5)
    module.gates.uniform_(0.2, 0.99, generator=torch.Generator().manual_seed(0))
    weight, group = module.weight.detach().double().numpy(), module.group.numpy()
    gates = module.gates.double().numpy()
    gradient = np.zeros_like(gates)
    np.add.at(gradient, group, 2 * (weight * gates[group] - 1) * weight)
    gradient += 0.5
    one_step(module, validation=True)
    want = gates - 0.01 * gradient / np.abs(gradient).mean(axis=1, keepdims=True)
    assert want.max() < 1
    np.testing.assert_allclose(module.gates.numpy(), want, atol=1e-6)


def test_gates_stay_between_0_and_1():
    module = searching(gate_lr=100.0)
    one_step(module, validation=True)
    assert set(module.gates.flatten().tolist()) == {0.0, 1.0}


def test_the_product_decides_and_gates_stand_still():
    module = searching(groups=2, density=0.25)
    module.gates[0] = 1e-3
    module.end_of_stage("search")
    rows = module.group == 1
    assert module.mask[rows].sum() > 0.99 * module.kept > 0
    product = (module.weight * module.gates[module.group.long()]).detach()
    assert torch.equal(module(torch.arange(N)), torch.where(module.mask, product, 0))
    assert product.abs()[module.mask].min() >= product.abs()[~module.mask].max()
    gates = module.gates.clone()
    one_step(module, validation=True)
    assert torch.equal(module.gates, gates)


def test_gates_of_blocks():
    module = make("autosrh", blocks=3)
    assert module.gates.shape == (6, 3)
    module.gates[:, 1] = 0
    zero = (module(torch.arange(N)) == 0).all(dim=0)
    assert zero.tolist() == [False] * 3 + [True] * 3 + [False] * 2 and DIM == 8
    assert make("autosrh", blocks=100).gates.shape == (6, DIM)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"groups": 0}, "groups of autosrh must be"),
        ({"groups": (0.5, 0.4)}, "add up to 1"),
        ({"gate_lr": -1}, "gate_lr of autosrh must be a number from 0"),
        ({"blocks": 0}, "blocks of autosrh must be an integer from 1"),
    ],
)
def test_refused(option, text):
    with pytest.raises(errors.ConfigError, match=text):
        make("autosrh", **option)


def test_counts_are_needed():
    with pytest.raises(errors.ConfigError, match="'autosrh' needs counts"):
        enn.embedding("autosrh", 100, 4)
