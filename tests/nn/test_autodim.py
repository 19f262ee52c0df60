"""AutoDim: who learns from which batch, what the search decides, and what is left of it."""

import copy

import numpy as np
import pytest

import embstore
from embstore import errors
from embstore.arrays import TableShape

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from embstore.nn._narrow import narrow_nbytes  # noqa: E402
from embstore.nn.autodim import candidate_dims  # noqa: E402

IDS = torch.arange(60)


def test_candidates():
    assert candidate_dims(16) == (2, 4, 8, 16)
    assert candidate_dims(12) == (2, 4, 8, 12)
    assert candidate_dims(2) == (2,) and candidate_dims(1) == (1,)
    assert candidate_dims(16, [1, 3]) == (1, 3)
    for given in ([], [0, 2], [4, 2], [2, 2], [32], [2.0], 4):
        with pytest.raises(errors.ConfigError, match="dims of autodim"):
            enn.embedding("autodim", 100, 16, dims=given)


def gradients(module, validation):
    module.zero_grad()
    module.before_step(0, validation)
    (module(IDS) * torch.arange(60)[:, None]).square().mean().backward()
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_preferences_learn_from_validation_and_weights_from_training():
    module = enn.embedding("autodim", 60, 8)
    weights = {f"{kind}.{i}" for kind in ("tables", "projections") for i in range(3)}
    assert gradients(module, True) == {"preference"}
    assert gradients(module, False) == weights


def test_noise_is_drawn_by_step_and_falls_away():
    module = enn.embedding("autodim", 60, 8)
    module(IDS)
    module.before_step(0)
    one = module(IDS)
    assert torch.equal(one, module(IDS))
    module.before_step(1)
    assert not torch.equal(one, module(IDS))
    assert int(module.seen) == 120
    module.seen.fill_(10**9)  # at the lowest temperature one candidate has all the weight
    module.before_step(2)
    arrays = zip(module.tables, module.projections, module.norms, strict=True)
    parts = [norm(table[IDS] @ projection) for table, projection, norm in arrays]
    assert min((module(IDS) - part).abs().max() for part in parts) < 1e-5
    module.eval()
    assert torch.equal(module(IDS), copy.deepcopy(module)(IDS))


def test_candidates_start_alike():
    """Normalized rows have the same size whatever the dimensions: magnitudes do not decide."""
    module = enn.embedding("autodim", 10_000, 16)
    ids = torch.arange(10_000)
    with torch.no_grad():
        stds = [
            norm(table[ids] @ projection).std()
            for table, projection, norm in zip(module.tables, module.projections, module.norms, strict=True)
        ]
    assert min(stds) > 0.85 and max(stds) < 1.01


def decided(preferences, sizes, budget):
    module = enn.embedding("autodim", embedding_dim=16, field_sizes=sizes, budget=budget)
    with torch.no_grad():
        for field, preference in zip(module.fields, preferences, strict=True):
            field.preference.copy_(torch.tensor(preference))
    module.end_of_stage("search")
    return [int(field.chosen) for field in module.fields], module.nbytes_inference()


def test_fields_get_what_they_like_best():
    chosen, _ = decided([[0.0, 1, 0, 0], [0.0, 0, 0, 1], [0.0, 0, 0, 0]], [500, 500, 500], None)
    assert chosen == [4, 16, 16]


def test_a_limit_takes_from_who_minds_least():
    sizes = [500, 500, 500]
    full = 3 * 500 * 64
    preferences = [[0.0, 0, 0, 5], [0.0, 0, 0, 0.1], [0.0, 0, 2, 1.9]]
    chosen, nbytes = decided(preferences, sizes, 0.7)
    assert chosen[0] == 16 and chosen[1] < 16 and chosen[2] == 8 and nbytes <= 0.7 * full
    assert nbytes + 4 * 500 + 64 > 0.7 * full  # what is left is less than one more dimension takes
    assert decided([[9.0, 0, 0, 0]] * 3, sizes, 0.5)[1] > 0.45 * full  # a budget is spent
    floor = 3 * narrow_nbytes(TableShape(500, 16), 2)
    assert decided(preferences, sizes, floor)[0] == [2, 2, 2]
    with pytest.raises(errors.BudgetError, match=f"at least {floor:,} bytes"):
        decided(preferences, sizes, floor - 1)
    with pytest.raises(errors.BudgetError, match=f"at least {floor // 3:,} bytes"):
        enn.embedding("autodim", 500, 16, budget=floor // 3 - 1)


@pytest.mark.parametrize("dims", [3, 8])
def test_inherited_rows_are_those_of_the_search(dims):
    module = enn.embedding("autodim", 60, 8, dims=[dims], inherit=True)
    with torch.no_grad():
        module.tables[0].mul_(20)
    for step in range(200):
        module.before_step(step)
        module(IDS)
    module.eval()
    before = module(IDS).detach()
    module.end_of_stage("search")
    torch.testing.assert_close(module(IDS).detach(), before, rtol=1e-3, atol=1e-3)


def test_the_search_prefers_what_lowers_the_loss():
    """Targets that no two dimensions can express."""
    torch.manual_seed(0)
    module = enn.embedding("autodim", 60, 8, dims=[1, 8])
    target = torch.randn(60, 8)
    target = (target - target.mean(0)) / target.std(0)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for step in range(400):
        module.before_step(step, validation=step % 2 == 0)
        optimizer.zero_grad()
        (module(IDS) - target).square().mean().backward()
        optimizer.step()
        module.after_step(step)
    module.end_of_stage("search")
    assert int(module.chosen) == 8


def test_the_state_after_the_search_is_all_there_is(tmp_path):
    module = enn.embedding("autodim", 60, 8)
    with pytest.raises(errors.ConfigError, match="before its search ends"):
        module.export(tmp_path / "t")
    with torch.no_grad():
        module.preference[1] = 3
    searching = module.nbytes_training()
    module.end_of_stage("search")
    assert int(module.chosen) == 4 and module.nbytes_training() < searching / 2
    other = enn.embedding("autodim", 60, 8, seed=5)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(IDS), module(IDS))
    table = other.export(tmp_path / "t")
    assert table.nbytes == other.nbytes_inference() == narrow_nbytes(TableShape(60, 8), 4)
    np.testing.assert_allclose(embstore.open(tmp_path / "t").lookup(np.arange(60)), module(IDS).detach(), rtol=1e-5)
