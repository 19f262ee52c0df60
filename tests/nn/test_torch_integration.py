"""Every module under `torch.compile`, autocast and data-parallel training over two processes."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from tests.nn.replica import DIM, N, make  # noqa: E402


def gradients(module, rows):
    """Of the module's parameters, None for those that the rows do not depend on."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    weights = torch.linspace(-1, 1, rows.numel()).reshape(rows.shape)
    return torch.autograd.grad((rows * weights).sum(), wanted, allow_unused=True)


CASES = [(name, {}, True) for name in enn.names()]
# Modules whose rows are others in evaluation.
CASES += [(name, {}, False) for name in ("dhe", "autodim", "dpq", "optembed", "define")]
CASES += [("hash", {"table_dtype": "int8"}, False), ("robe", {"pool_dtype": "int8"}, False)]
CASES += [("tt", {"core_dtype": "int8"}, False), ("mde", {"dims": 3, "table_dtype": "int8"}, False)]


@pytest.mark.parametrize(("name", "config", "training"), CASES)
def test_compiled_rows_and_gradients_are_the_same(name, config, training):
    """Of two batches, and after weights have changed: neither ids nor weights may end up in the compiled graph."""
    torch._dynamo.reset()
    eager, other = (make(name, **config).train(training) for _ in range(2))
    compiled = torch.compile(other, backend="aot_eager")
    for step, ids in enumerate((torch.tensor([0, 3, 3, N - 1]), torch.tensor([[5, 1], [2, 5], [59, 40]]))):
        for module in (eager, other):
            module.before_step(step)
        want, rows = eager(ids), compiled(ids)
        assert rows.shape == (*ids.shape, DIM)
        torch.testing.assert_close(rows, want)
        for a, b in zip(gradients(other, rows), gradients(eager, want), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a.to_dense(), b.to_dense())
        with torch.no_grad():
            for module in (eager, other):
                for p in module.parameters():
                    p += 0.01
        for module in (eager, other):
            module.after_step(step)


@pytest.mark.parametrize("name", enn.names())
def test_autocast(name):
    """Rows of a bfloat16 region are those outside of it, but for rounding; gradients reach the float32 weights."""
    module, same = make(name), make(name)
    ids = torch.tensor([0, 3, 3, N - 1])
    module.before_step(0)
    same.before_step(0)
    with torch.autocast("cpu", torch.bfloat16):
        rows = module(ids)
        bags = make(name, mode="sum").eval()(ids.reshape(2, 2))
    want = same(ids)
    assert rows.shape == want.shape and bags.shape == (2, DIM)
    torch.testing.assert_close(rows.float(), want, rtol=0.1, atol=0.05 * want.abs().max().item())
    for gradient in gradients(module, rows.float()):
        assert gradient is None or (gradient.dtype == torch.float32 and torch.isfinite(gradient.to_dense()).all())


@pytest.mark.parametrize("rows", ["chain", "operators"])
def test_replicas_stay_equal(rows, tmp_path):
    """Two processes see batches of their own and end with the same weights, which have changed."""
    command = [sys.executable, "-m", "tests.nn.replica", str(tmp_path), rows]
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen([*command, str(rank)], cwd=root, stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert set(first) == set(second) == set(enn.names())
    for name, (weights, moved) in first.items():
        assert moved, name
        for a, b in itertools.zip_longest(weights, second[name][0]):
            assert torch.equal(a, b), name
