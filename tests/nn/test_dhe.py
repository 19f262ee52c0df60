"""Deep hash embeddings: the solver's known widths, encodings, Mish, folded normalization, budgets."""

import copy
import dataclasses

import numpy as np
import pytest

from embstore import errors, kernels
from embstore.arrays import Arrays, TableShape
from embstore.method import nbytes
from embstore.methods.dhe import Dhe, mish, solve_width, trained_weights
from tests.nn.field_sizes import AVAZU, CRITEO

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")


# What the code of the survey (arXiv 2311.15578) finds. It counts dim more weights a unit and none for the last bias,
# which tells at one of these: 2933 for Avazu at 0.5.
@pytest.mark.parametrize(
    ("sizes", "ratio", "width", "replaced", "reached"),
    [
        (CRITEO, 0.5, 3626, 4, 0.4999), (CRITEO, 0.1, 1372, 5, 0.1), (CRITEO, 0.05, 844, 6, 0.0499),
        (CRITEO, 0.01, 271, 8, 0.00999), (CRITEO, 0.005, 147, 8, 0.00498), (CRITEO, 0.001, 29, 14, 0.00098),
        (CRITEO, 0.0001, 2, 18, 0.000077), (AVAZU, 0.5, 2934, 2, 0.4999), (AVAZU, 0.1, 1224, 2, 0.0999),
        (AVAZU, 0.01, 241, 2, 0.00999), (AVAZU, 0.001, 15, 7, 0.00095),
    ],
)  # fmt: skip
def test_widths_of_the_survey(sizes, ratio, width, replaced, reached):
    found = solve_width(sizes, 16, ratio)
    weights = trained_weights(found, 16)
    assert found == width
    assert sum(weights < 16 * n for n in sizes) == replaced
    assert sum(min(16 * n, weights) for n in sizes) / sum(sizes) / 16 == pytest.approx(reached, rel=0.01)


def test_unreachable_ratio_is_refused():
    with pytest.raises(errors.BudgetError, match="at least"):
        solve_width([1000, 1000], 16, 0.01)


def test_weights_of_training_are_those_of_the_module():
    """But for the biases that normalization takes away again, which the survey counts."""
    module = enn.embedding("dhe", 10_000, 16, hashes=64, width=12, layers=5)
    assert sum(p.numel() for p in module.parameters()) == trained_weights(12, 16, 64) - 5 * 12


@pytest.mark.parametrize("encoding", ["uniform", "gaussian"])
def test_encodings(encoding):
    method = Dhe(hashes=64, width=1, encoding=encoding)
    ids = np.concatenate([np.arange(5000), 2**40 - 1 - np.arange(5000)])
    x = method.encodings(ids)
    assert np.abs(x.mean(axis=0)).max() < 0.06
    assert x.var() == pytest.approx(1 / 3 if encoding == "uniform" else 1.0, rel=0.02)
    module = enn.embedding("dhe", 2**40, 4, hashes=64, width=1, encoding=encoding)
    found = module.encodings(torch.from_numpy(ids)).numpy()
    assert np.array_equal(found, x.astype(np.float32)) or encoding == "gaussian"
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-6)
    if encoding == "uniform":
        assert np.array_equal(x.astype(np.float32), x) and np.abs(x).max() < 1


def test_hashes_in_python_integers():
    method = Dhe(hashes=6, width=1, seed=9)
    a, b = method.factors()
    for x in (0, 1, 12345, 2**40 - 1):
        want = [(2 * (((int(p) * x + int(q)) % 2**64) >> 40) + 1) / 2**24 - 1 for p, q in zip(a, b, strict=True)]
        assert method.encodings(np.array([x]))[0].tolist() == want


def test_mish_over_its_whole_range():
    z = np.concatenate([np.linspace(-86, 60, 4001), [-200.0, -1e-30, 0.0, 1e-30, 3e38]]).astype(np.float32)
    shape = TableShape(3, len(z))
    method = Dhe(hashes=1, width=len(z), layers=1)
    shared = {
        "weight0": np.zeros((1, len(z)), np.float32), "bias0": z,
        "weight1": np.eye(len(z), dtype=np.float32), "bias1": np.zeros(len(z), np.float32),
    }  # fmt: skip
    want = mish(z.astype(np.float64))
    direct = torch.nn.functional.mish(torch.from_numpy(z).double()).numpy()
    np.testing.assert_allclose(want, direct, rtol=1e-9, atol=1e-12)
    bound, _ = kernels.bind(method, shape, 8, [Arrays({})], shared)
    out = np.empty((1, len(z)), np.float32)
    assert bound.lookup(np.array([2]), out, 1) == -1
    np.testing.assert_allclose(out[0], want, rtol=6e-7, atol=1e-35)


def test_normalization_as_trained_is_folded(tmp_path):
    torch.manual_seed(0)
    module = enn.embedding("dhe", 500, 8, hashes=128, width=32)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    target = torch.randn(500, 8)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(module(torch.arange(500)), target).backward()
        optimizer.step()
    module.eval()
    assert all(norm.running_mean.abs().max() > 0.01 for norm in module.norms)
    with torch.no_grad():
        rows = module(torch.arange(500)).numpy()
    table = module.export(tmp_path / "t")
    np.testing.assert_allclose(table.lookup(np.arange(500)), rows, rtol=0, atol=2e-6 * np.abs(rows).max())


@pytest.mark.parametrize("distinct", [5, 700])  # fewer than inputs, and more
@pytest.mark.parametrize("layers", [1, 3])
def test_repeated_ids_count_in_the_moments(layers, distinct):
    """Rows, gradients and running moments are those of torch's layers on every sample."""
    torch.manual_seed(0)
    module = enn.embedding("dhe", 1000, 8, hashes=32, width=40, layers=layers).double()
    linear, norms = copy.deepcopy(module.linear), copy.deepcopy(module.norms)
    ids, weights = torch.randint(0, distinct, (3 * distinct,)), torch.randn(3 * distinct, 8).double()
    for training in (True, False):
        for part in (module, linear, norms):
            part.train(training)
        x = module.encodings(ids)
        for layer, norm in zip(linear, norms, strict=False):
            x = torch.nn.functional.mish(norm(layer(x)))
        want, rows = linear[-1](x), module(ids)
        torch.testing.assert_close(rows, want)
        for mine, theirs in ((module.linear, linear), (module.norms, norms)):
            found = torch.autograd.grad((rows * weights).sum(), list(mine.parameters()), retain_graph=True)
            plain = torch.autograd.grad((want * weights).sum(), list(theirs.parameters()), retain_graph=True)
            for a, b in zip(found, plain, strict=True):
                torch.testing.assert_close(a, b)
        assert module.norms.state_dict().keys() == norms.state_dict().keys()
        for name, value in norms.state_dict().items():
            torch.testing.assert_close(module.norms.state_dict()[name], value)


def test_one_id_has_no_moments():
    module = enn.embedding("dhe", 1000, 8, width=16)
    with pytest.raises(errors.ShapeError, match="two ids or more, found 1"):
        module(torch.tensor([3]))
    assert module.eval()(torch.tensor([3])).shape == (1, 8)


def test_rows_start_with_the_spread_of_a_full_table():
    module = enn.embedding("dhe", 20_000, 16, width=64)
    with torch.no_grad():
        std = (module(torch.arange(2000)) - module(torch.arange(2000)).mean(0)).std().item()
    assert 0.3 < std / (1 / 20_000 / 3) ** 0.5 < 1.5


def test_budgets():
    shape = TableShape(100_000, 16)
    for ratio in (0.5, 0.1, 0.01):
        method = Dhe().for_budget(shape, int(shape.nbytes_float32 * ratio))
        wider = dataclasses.replace(method, width=method.width + 1)
        assert nbytes(method, shape) <= shape.nbytes_float32 * ratio < nbytes(wider, shape)
    floor = nbytes(Dhe(width=1), shape)
    with pytest.raises(errors.BudgetError, match=f"at least {floor:,} bytes"):
        Dhe().for_budget(shape, floor - 1)
    assert Dhe().for_budget(shape, floor).width == 1


def test_hashes_follow_the_width():
    shape = TableShape(100_000, 16)
    sized = [Dhe().for_budget(shape, nbytes) for nbytes in (1_000_000, 60_000, 10_000, 1_000)]
    assert [method.hashes for method in sized] == [256, 128, 64, 16]
    assert all(16 <= method.hashes <= 4 * method.width for method in sized[:3])
    assert [Dhe(width=w).resolve(shape).hashes for w in (64, 63, 4, 3)] == [256, 128, 16, 16]
    assert Dhe(hashes=1024, layers=5).for_budget(shape, 1_000_000).hashes == 1024


def test_refused():
    for config in ({"hashes": 0}, {"width": 2**17}, {"layers": 0}, {"encoding": "sine"}, {"seed": -1}):
        with pytest.raises(errors.ConfigError, match=next(iter(config))):
            Dhe(**config)
    with pytest.raises(errors.ConfigError, match="even"):
        Dhe(hashes=3, encoding="gaussian")
