"""Every module under `torch.compile`, autocast and data-parallel training over two processes."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from torch import distributed, multiprocessing  # noqa: E402

N, DIM = 60, 8


def make(name, **config):
    counts = np.arange(1, N + 1)[::-1]
    return enn.embedding(name, N, DIM, counts=counts, seed=3, **config)


def gradients(module, rows):
    """Of the module's parameters, None for those that the rows do not depend on."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    weights = torch.linspace(-1, 1, rows.numel()).reshape(rows.shape)
    return torch.autograd.grad((rows * weights).sum(), wanted, allow_unused=True)


CASES = [(name, {}, True) for name in enn.names()]
# Modules whose rows are others in evaluation.
CASES += [(name, {}, False) for name in ("dhe", "autodim", "dpq", "optembed", "define")]
CASES += [("hash", {"table_dtype": "int8"}, False), ("robe", {"pool_dtype": "int8"}, False)]


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


def replica(rank, path, found):
    """One process of two: a step of every module on a batch of its own, and what its weights are afterwards."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    results = {}
    for name in enn.names():
        module = make(name)
        if not any(p.requires_grad for p in module.parameters()):
            continue
        parallel = torch.nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        first = [p.detach().clone().double() for p in module.parameters()]
        for step in range(2):
            module.before_step(step)
            ids = torch.arange(20) + 30 * rank + step
            loss = (parallel(ids) - 1).square().sum()
            term = module.regularizer()
            optimizer.zero_grad()
            (loss if term is None else loss + term).backward()
            optimizer.step()
            module.after_step(step)
        weights = [p.detach().clone().double() for p in module.parameters()]
        moved = any(not torch.equal(a, b) for a, b in zip(first, weights, strict=True))
        results[name] = [w.numpy() for w in weights], moved
    distributed.destroy_process_group()
    found.put((rank, results))


def test_replicas_stay_equal(tmp_path):
    """Two processes see batches of their own and end with the same weights, which have changed."""
    spawn = multiprocessing.get_context("spawn")
    found = spawn.SimpleQueue()
    processes = [spawn.Process(target=replica, args=(rank, tmp_path / "store", found)) for rank in range(2)]
    for process in processes:
        process.start()
    results = dict(found.get() for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert set(results[0]) == set(results[1]) == set(enn.names())
    for name, (weights, moved) in results[0].items():
        assert moved, name
        for a, b in itertools.zip_longest(weights, results[1][name][0]):
            assert np.array_equal(a, b), name
