"""Tied output layers: logits are products with all rows, gradients too, and no table is ever made."""

import numpy as np
import pytest

from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

N, DIM = 203, 12
COUNTS = np.random.default_rng(0).zipf(1.5, N).astype(np.float64)
CONFIGS = [(name, {}) for name in enn.names()]
CONFIGS += [("compo", {"op": "add", "partitions": 3}), ("compo", {"op": "concat", "partitions": 3}),
            ("compo", {"op": "concat", "partitions": 1}), ("compo", {"op": "add", "partitions": 1}),
            ("memcom", {"bias": True})]  # fmt: skip


def make(name, config, **more):
    return enn.embedding(name, N, DIM, counts=COUNTS, seed=3, **config, **more)


def leaves(module):
    """What rows depend on in evaluation mode: not the weights that searches and queries have beside them."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(module(torch.arange(N)).sum(), wanted, allow_unused=True)
    return [p for p, gradient in zip(wanted, found, strict=True) if gradient is not None]


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_logits_are_products_with_all_rows(name, config):
    torch.manual_seed(0)
    # In evaluation mode gradients of those pass a cast to float16, a block at a time or all at once.
    near = 2e-3 if name in {"deeplight", "pep", "autosrh", "dnis"} else 1e-4
    module = make(name, config).eval()
    hidden = torch.randn(2, 5, DIM, requires_grad=True)
    upstream = torch.randn(2, 5, N)
    rows = module(torch.arange(N))
    want = hidden @ rows.T
    wanted = torch.autograd.grad(want, [hidden, *leaves(module)], upstream)
    for block in (1, 64, N, 10_000):
        logits = module.as_output_projection(block)(hidden)
        assert logits.shape == (2, 5, N)
        torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-6 * want.abs().max().item())
        found = torch.autograd.grad(logits, [hidden, *leaves(module)], upstream)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=near, atol=near * b.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(module.as_output_projection(50)(hidden), logits)


# Those round, or choose what to keep: their gradient is that of other values.
CHOOSING = {"int8", "int16", "alpt", "dpq", "mgqe", "optembed", "deeplight", "pep", "autosrh", "dnis"}


@pytest.mark.parametrize(("name", "config"), [each for each in CONFIGS if each[0] not in CHOOSING])
def test_gradients(name, config):
    module = make(name, config).double().eval()
    hidden = torch.randn(3, DIM, dtype=torch.float64, requires_grad=True)
    project = module.as_output_projection(64)
    torch.autograd.gradcheck(lambda *_: project(hidden), [hidden, *leaves(module)], fast_mode=True, atol=1e-5)
    target = torch.tensor([0, 150, N - 1])
    torch.autograd.gradcheck(
        lambda *_: project.cross_entropy(hidden, target), [hidden, *leaves(module)], fast_mode=True, atol=1e-5
    )


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_cross_entropy(name, config):
    module = make(name, config).eval()
    hidden, target = torch.randn(4, 3, DIM), torch.randint(0, N, (4, 3))
    want = torch.nn.functional.cross_entropy((hidden @ module(torch.arange(N)).T).flatten(0, 1), target.flatten())
    torch.testing.assert_close(module.as_output_projection(30).cross_entropy(hidden, target), want)


def test_weights_are_shared_and_counted_once():
    module = make("compo", {})
    model = torch.nn.ModuleDict({"input": module, "output": module.as_output_projection()})
    assert len(list(model.parameters())) == len(list(module.parameters()))
    ids = torch.randint(0, N, (64,))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    for _ in range(80):  # each id is to predict itself
        loss = model["output"].cross_entropy(model["input"](ids), ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 4 and losses[-1] < 0.5


def test_statistics_of_batches_are_those_of_inputs():
    module = make("dhe", {"hashes": 32, "width": 12})
    module(torch.arange(50))  # one batch in training mode
    before = [norm.running_mean.clone() for norm in module.norms]
    hidden = torch.randn(3, DIM)
    logits = module.as_output_projection(40)(hidden)
    logits.sum().backward()
    assert module.training and all(norm.training for norm in module.norms)
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, module.norms, strict=True))
    torch.testing.assert_close(logits, hidden @ module.eval()(torch.arange(N)).T)


def test_no_block_is_kept_for_the_backward_pass():
    module = enn.embedding("compo", 5000, 16)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    hidden = torch.randn(2, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module.as_output_projection(500).cross_entropy(hidden, torch.tensor([3, 4999]))
    assert max(kept) < 500 * 2
    loss.backward()
    assert hidden.grad.abs().max() > 0


def test_refused():
    project = make("compo", {}).as_output_projection()
    with pytest.raises(errors.ShapeError, match=rf"\(\.\.\., {DIM}\), found \(2, 5\)"):
        project(torch.zeros(2, 5))
    with pytest.raises(errors.ShapeError, match="target must have shape"):
        project.cross_entropy(torch.zeros(2, DIM), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(errors.IdRangeError, match=f"found {N}"):
        project.cross_entropy(torch.zeros(1, DIM), torch.tensor([N]))
    with pytest.raises(errors.ConfigError, match="block"):
        make("compo", {}).as_output_projection(0)
