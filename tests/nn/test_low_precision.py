"""int8, int16 and alpt: codes that train under any optimizer. What every module promises is in test_nn_laws.py."""

import copy
import io

import numpy as np
import pytest

import embstore
from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from embstore.nn._quantized import stochastic_codes  # noqa: E402

IDS = ("int8", "int16", "alpt")
N, DIM = 50, 8


def make(name="int8", **config):
    return enn.embedding(name, N, DIM, **config)


def test_rounding_is_unbiased_for_each_element_on_its_own():
    generator = torch.Generator().manual_seed(0)
    step = torch.tensor([[0.01]])
    values = torch.tensor([[0.0023, -0.0071, 0.0149, -0.00001, 0.004, 0.0049]])
    draws = 20_000
    noise = torch.rand((draws, 6), generator=generator)
    codes = stochastic_codes(values.expand(draws, 6), step, noise, 127)
    share = values / step - torch.floor(values / step)
    assert (codes == torch.floor(values / step)).logical_or(codes == torch.floor(values / step) + 1).all()
    bound = 4.5 * (share * (1 - share) / draws).sqrt()
    assert ((codes.mean(0) * step - values).abs() <= bound * step + 1e-9).all()
    # One number drawn for a whole row would round its elements together.
    correlation = torch.corrcoef(codes[:, [0, 1, 2, 4, 5]].T) - torch.eye(5)
    assert correlation.abs().max() < 0.05


def test_the_module_draws_for_each_element():
    module = make()
    with torch.no_grad():
        module.weight.fill_(0.005)
    module.after_step(0)
    up = module.store.codes == 1
    assert 0.4 < up.float().mean() < 0.6
    assert (up.any(1) & ~up.all(1)).sum() > 0.9 * N


@pytest.mark.parametrize("bits", [8, 16])
def test_codes_are_clipped_and_values_on_the_grid_stay(bits):
    top = 2 ** (bits - 1) - 1
    for step in (0.01, 1 / 3, 7.7e-5):
        step = torch.tensor([[step]])
        every = torch.arange(-top, top + 1, dtype=torch.float32)
        noise = torch.rand(len(every), generator=torch.Generator().manual_seed(0))
        assert torch.equal(stochastic_codes(every * step[0], step[0], noise, top), every)
        assert torch.equal(stochastic_codes(3e4 * step, step, noise[:1], 99), torch.tensor([[99.0]]))


@pytest.mark.parametrize("name", IDS)
def test_learning_does_not_stall_below_the_step(name):
    """Updates of a twentieth of the step: nearest rounding loses every one, stochastic rounding none on average."""
    module = make(name, **({"bits": 8, "step_lr": 0.0} if name == "alpt" else {"step": 0.01}))
    before = module.store.decode()
    optimizer = torch.optim.SGD(module.parameters(), 0.0005)
    steps = 400
    nearest = before.clone()
    for step in range(steps):
        optimizer.zero_grad()
        module(torch.arange(N)).sum().backward()
        optimizer.step()
        module.after_step(step)
        nearest = ((nearest - 0.0005) / 0.01).round() * 0.01
    moved = module.store.decode() - before
    assert abs(moved.mean().item() + steps * 0.0005) < 0.003
    assert moved.std() < 0.05
    torch.testing.assert_close(nearest, before)


OPTIMIZERS = {
    "SGD": {"lr": 0.5},
    "SGD momentum": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
    "Adam": {"lr": 0.02},
    "AdamW": {"lr": 0.02},
    "NAdam": {"lr": 0.02},
    "RAdam": {"lr": 0.02},
    "Adamax": {"lr": 0.02},
    "Adagrad": {"lr": 0.1},
    "RMSprop": {"lr": 0.01},
    "Rprop": {"lr": 0.01},
    "ASGD": {"lr": 0.5},
    "Adadelta": {"lr": 20.0},
}


@pytest.mark.parametrize("hooks", [True, False])
@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_optimizer(name, optimizer, hooks):
    module = make(name)
    target = 0.5 * torch.randn((N, DIM), generator=torch.Generator().manual_seed(0))
    built = getattr(torch.optim, optimizer.split()[0])(module.parameters(), **OPTIMIZERS[optimizer])
    for step in range(150):
        loss = (module(torch.arange(N)) - target).square().sum(1).mean()
        built.zero_grad()
        loss.backward()
        built.step()
        if hooks:
            module.after_step(step)
            assert module.store.pending is None
    assert (module(torch.arange(N)) - target).square().mean() < 0.3 * target.square().mean()
    assert not module.store.codes.is_floating_point()


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradients_touch_no_other_row(name, optimizer):
    module = make(name, sparse=True)
    built = getattr(torch.optim, optimizer)(module.parameters(), lr=0.1)
    before = module.store.codes.clone()
    touched = torch.tensor([3, 7, 7, 20])
    module(touched).sum().backward()
    built.step()
    assert module.store.pending[1].shape == (3, DIM)
    module.after_step(0)
    changed = (module.store.codes != before).any(1)
    assert set(torch.nonzero(changed).flatten().tolist()) == {3, 7, 20}


def test_untouched_rows_stay_under_a_dense_optimizer():
    module = make("int16", step=1 / 3000)
    with torch.no_grad():
        module.weight.uniform_(-5, 5)
    module.after_step(0)
    before = module.store.codes.clone()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for step in range(100):
        optimizer.zero_grad()
        module(torch.tensor([1])).sum().backward()
        optimizer.step()
        module.after_step(step)
    assert set(torch.nonzero((module.store.codes != before).any(1)).flatten().tolist()) == {1}


@pytest.mark.parametrize("name", IDS)
def test_the_state_is_plain_tensors(name):
    a, b = make(name, seed=1), make(name, seed=2)
    with torch.no_grad():
        a.weight += 0.1  # a step that is not rounded yet
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert {k: v.dtype for k, v in state.items()}["codes"] in (torch.int8, torch.int16)
    b.load_state_dict(state)
    assert torch.equal(a(torch.arange(N)), b(torch.arange(N)))
    assert torch.equal(copy.deepcopy(a)(torch.arange(N)), b(torch.arange(N)))
    other = make("int8" if name == "int16" else "int16")
    with pytest.raises(RuntimeError, match="codes must be"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key"):
        b.load_state_dict({"codes": state["codes"]})


@pytest.mark.parametrize("name", IDS)
def test_conversion_and_autocast(name):
    module = make(name)
    ids = torch.arange(N)
    rows = module(ids).detach()
    layer = torch.nn.Linear(DIM, 1)
    with torch.autocast("cpu", torch.bfloat16):
        layer(module(ids)).sum().backward()
    assert module.weight.grad.dtype == torch.float32 and module.weight.grad.abs().sum() > 0
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    doubled = module.double()
    assert doubled(ids).dtype == doubled.weight.dtype == torch.float64
    assert not doubled.store.codes.is_floating_point()
    torch.testing.assert_close(doubled(ids).float(), rows)
    optimizer.zero_grad()
    doubled(ids).sum().backward()
    optimizer.step()
    torch.testing.assert_close(doubled(ids).float().mean(), rows.mean() - 0.1, atol=0.001, rtol=0)
    moved = make(name).to("meta")
    assert moved.weight.device.type == moved.store.codes.device.type == "meta"


@pytest.mark.parametrize("name", IDS)
def test_compiled(name):
    module = make(name)
    compiled = torch.compile(module, backend="aot_eager")
    optimizer = torch.optim.SGD(compiled.parameters(), 0.1)
    for step in range(3):
        rows = compiled(torch.arange(N))
        assert torch.equal(rows, module(torch.arange(N)))
        optimizer.zero_grad()
        rows.sum().backward()
        optimizer.step()
        module.after_step(step)
    assert rows.mean() < -0.15


def test_data_parallel(tmp_path):
    """Replicas must round alike: the stream is the module's own, not the process's."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        replicas = [torch.nn.parallel.DistributedDataParallel(make(seed=3)) for _ in range(2)]
        for i, module in enumerate(replicas):
            torch.manual_seed(i)
            optimizer = torch.optim.SGD(module.parameters(), 0.003)
            for _ in range(5):
                optimizer.zero_grad()
                module(torch.arange(N)).square().sum().backward()
                optimizer.step()
        assert torch.equal(replicas[0](torch.arange(N)), replicas[1](torch.arange(N)))
        assert not torch.equal(replicas[0](torch.arange(N)), make(seed=3)(torch.arange(N)))
    finally:
        distributed.destroy_process_group()


def test_bytes():
    n, dim = 1000, 16
    full = 4 * n * dim
    for name, config, ratio in (
        ("int8", {}, 0.25),
        ("int16", {}, 0.5),
        ("alpt", {}, 0.3125),
        ("alpt", {"bits": 16}, 0.5625),
    ):
        module = enn.embedding(name, n, dim, **config)
        assert module.nbytes_inference() == ratio * full
        step = 4 * len(module.store.step)
        assert module.nbytes_training("sgd") == module.store.codes.nbytes + step < 0.6 * full
        assert module.nbytes_training("adam") == module.nbytes_training("sgd") + 2 * full
        assert enn.embedding(name, n, dim, budget=ratio, **config).nbytes_inference() == ratio * full
        with pytest.raises(errors.BudgetError, match=f"needs {int(ratio * full):,} bytes"):
            enn.embedding(name, n, dim, budget=ratio - 0.01, **config)


@pytest.mark.parametrize(
    ("name", "config", "text"),
    [
        ("int8", {"block_size": 4}, "'int8' has step, sparse, found the unknown field 'block_size'"),
        ("int16", {"bits": 8}, "unknown field 'bits'"),
        ("int8", {"step": -1.0}, "step of int8 must be a positive float"),
        ("alpt", {"bits": 4}, "bits of alpt must be 8 or 16"),
        ("alpt", {"step": 0.1}, "unknown field 'step'"),
    ],
)
def test_refused(name, config, text):
    with pytest.raises(errors.ConfigError, match=text):
        make(name, **config)


def _trained_alpt(first, second, steps=800):
    torch.manual_seed(0)
    module = make("alpt", first_step=first)
    target = 0.3 * torch.randn(N, DIM)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for step in range(steps):
        ids = torch.randint(0, N, (32,))

        def loss(ids=ids):
            return (module(ids) - target[ids]).square().mean()

        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        if second:
            module.second_pass(loss)
        module.after_step(step)
    return module, float((module(torch.arange(N)) - target).square().mean().detach())


@pytest.mark.parametrize("second", [True, False])
def test_alpt_widens_a_step_that_clips(second):
    """At 0.001 codes reach 0.127, and most targets lie beyond: steps must grow, and the error fall below clipping."""
    module, error = _trained_alpt(0.001, second)
    assert module.store.step.median() > 0.003
    target = 0.3 * torch.randn((N, DIM), generator=torch.Generator().manual_seed(0))
    clipped = (target.abs() - 0.127).clamp(min=0).square().mean()
    assert error < 0.05 * clipped


def test_alpt_takes_the_gradient_of_lsq_from_the_second_pass():
    module = make("alpt", first_step=0.1, step_lr=1e-3)
    ids = torch.tensor([4, 9])
    w = torch.zeros(N, DIM)
    w[4] = torch.tensor([0.13, -0.28, 0.0, 0.049, 20.0, -20.0, 0.1, 0.31])
    with torch.no_grad():
        module.weight.copy_(w)
    slope = torch.arange(1.0, 9.0)
    seen = []

    def loss():
        rows = module(ids)
        seen.append(rows.detach())
        return (rows[0] * slope).sum()

    module.second_pass(loss)
    nearest = torch.tensor([1.0, -3, 0, 0, 127, -127, 1, 3]) * 0.1
    torch.testing.assert_close(seen[0][0], nearest)
    residual = torch.tensor([1 - 1.3, -3 + 2.8, 0, -0.49, 127, -127, 0, 3 - 3.1])
    moved = 0.1 - module.store.step.flatten()
    rate = 1e-3 / (module._ids * DIM * 127) ** 0.5
    torch.testing.assert_close(moved[4], rate * (residual * slope).sum(), rtol=1e-2, atol=1e-7)
    assert moved[torch.arange(N) != 4].abs().max() == 0
    assert module.store.pending is None


def test_one_second_pass_for_all_fields():
    module = enn.embedding("alpt", embedding_dim=DIM, field_sizes=[30, 3, 40])
    ids = torch.tensor([[1, 0, 5], [29, 1, 39]])
    optimizer = torch.optim.SGD(module.parameters(), 0.0117)
    calls = []

    def loss():
        calls.append(1)
        return (module(ids) - 0.2).square().sum()

    loss().backward()
    optimizer.step()
    module.second_pass(loss)
    module.after_step(0)
    assert len(calls) == 2
    first = 1.27 / 127
    for field, own in zip(module.fields, ids.T, strict=True):
        assert field.store.pending is None
        moved = torch.nonzero((field.store.step - first).abs().flatten() > 1e-6).flatten().tolist()
        assert moved == sorted(own.tolist())


def test_a_step_for_the_table_from_finished_rows(tmp_path):
    rows = np.random.default_rng(0).uniform(-1, 1, (100, 12)).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", "int8", symmetric=True, step=0.01)
    assert table.nbytes == rows.size
    assert np.abs(table.lookup(np.arange(100)) - rows).max() <= 0.00501
    assert "step=0.009999999776482582" in repr(embstore.open(tmp_path / "t").method)
    found = table.search(table.lookup([5]), 3, metric="l2")[1]
    assert found[0, 0] == 5
    centred = embstore.compress(rows + 3, tmp_path / "c", "center,int8", symmetric=True, step=0.01)
    assert np.abs(centred.lookup(np.arange(100)) - rows - 3).max() <= 0.00502
    for bad, method in ((1.3, "int8"), (-1.3, "int8"), (np.nan, "int8"), (3.0, "center,int8")):
        rows[7, 3] = bad
        with pytest.raises(errors.ConfigError, match=r"values up to 1.27, found others in row 7; use a larger"):
            embstore.compress(rows, tmp_path / "u", method, symmetric=True, step=0.01, nonfinite="keep")
    for name, symmetric, text in (("int8", False, "goes with a step"), ("int4", True, "codes of 8 or 16 bits")):
        with pytest.raises(errors.ConfigError, match=text):
            embstore.compress(rows, tmp_path / "u", name, step=0.01, symmetric=symmetric)
