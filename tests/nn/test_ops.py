"""Operators of trainable rows: the bits of torch's own chain on the CPU, by falling back to it and by the CUDA kernels,
which run on the host here; and what torch asks of an operator."""

import contextlib
import itertools

import numpy as np
import pytest

from embstore import errors
from embstore.cuda import driver

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from embstore.cuda import trained  # noqa: E402
from embstore.nn import _ops, _rows  # noqa: E402
from tests.nn.test_nn_laws import CONFIGS  # noqa: E402

N = 203
FLOATS = [(name, config) for name in ("compo", "robe", "adapt", "tt") for config in ({}, *CONFIGS[name])]
CODES = [("int8", {}), ("int16", {}), ("alpt", {}), ("alpt", {"bits": 16})]
needs_kernels = pytest.mark.skipif(not driver.built(), reason="embstore._cuda was not built")


def make(name, config, dim, **more):
    counts = np.random.default_rng(0).zipf(1.5, N).astype(np.float64)
    return enn.embedding(name, N, dim, counts=counts, **config, **more)


@contextlib.contextmanager
def fallen_back():
    """Operators that do what the chain does."""
    with enn.use_fused(True):
        yield


@contextlib.contextmanager
def on_the_host():
    """Operators by their kernels, in loops over the host's memory. Fails where one was not used."""
    ran, run = [], trained.run

    def noted(*args, **kwargs):
        ran.append(args[0])
        return run(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ops, "KERNELS_ON", ["cuda", "cpu"])
        patch.setattr(trained, "run", noted)
        yield
        assert ran


WAYS = [fallen_back, pytest.param(on_the_host, marks=needs_kernels)]


def rows_and_gradients(module, ids, gradient):
    for p in module.parameters():
        p.grad = None
    rows = module(ids)
    rows.backward(gradient)
    return rows.detach(), [p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dim", [1, 3, 4, 12, 64, 130])
@pytest.mark.parametrize(("name", "config"), FLOATS + CODES)
def test_rows_and_gradients_have_the_bits_of_the_chain(name, config, dim, way):
    module = make(name, config, dim)
    generator = torch.Generator().manual_seed(dim)
    ids = torch.cat([torch.tensor([0, N - 1, 5, 5, 5]), torch.randint(0, N, (400,), generator=generator)])
    gradient = torch.randn((len(ids), dim), generator=generator)
    for training in (True, False):
        module.train(training)
        with enn.use_fused(False):
            want, wanted = rows_and_gradients(module, ids, gradient)
        with way():
            found, gradients = rows_and_gradients(module, ids, gradient)
        assert len(gradients) == len(wanted) > 0
        if name == "tt" and way is on_the_host:  # torch multiplies matrices by a library, which adds in its own order
            torch.testing.assert_close([found, *gradients], [want, *wanted], rtol=1e-5, atol=1e-5)
        else:
            assert all(map(torch.equal, [found, *gradients], [want, *wanted]))


@needs_kernels
@pytest.mark.parametrize("dim", [1027, 4400])
@pytest.mark.parametrize("name", ["compo", "robe", "adapt", "int8", "tt"])
def test_rows_wider_than_a_block(name, dim):
    """Rows have the bits of the chain, or nearly; a pool's gradient is added in another order within a row."""
    module, ids = make(name, {}, dim), torch.tensor([3, 3, 0, N - 1])
    gradient = torch.randn((4, dim), generator=torch.Generator().manual_seed(0))
    with enn.use_fused(False):
        want, wanted = rows_and_gradients(module, ids, gradient)
    with on_the_host():
        found, gradients = rows_and_gradients(module, ids, gradient)
    if name == "tt":
        torch.testing.assert_close(found, want)
    else:
        assert torch.equal(found, want)
    torch.testing.assert_close(gradients, wanted, rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("config", [{}, {"partitions": 4}, {"op": "concat"}])
def test_weights_may_begin_anywhere(config):
    """Parameters that are parts of one flat tensor, as some optimizers make them, are aligned to 4 bytes only."""
    module, ids = make("compo", config, 16), torch.arange(N)
    gradient = torch.randn((N, 16), generator=torch.Generator().manual_seed(0))
    with enn.use_fused(False):
        want, wanted = rows_and_gradients(module, ids, gradient)
    for table in module.tables:
        flat = torch.zeros(table.numel() + 1)
        table.data = flat[1:].reshape(table.shape).copy_(table.data)
        assert table.data_ptr() % 16 == 4
    with on_the_host():
        found, gradients = rows_and_gradients(module, ids, gradient)
    assert torch.equal(found, want)
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))


@pytest.mark.parametrize(("name", "config"), FLOATS)
def test_gradcheck(name, config):
    module = make(name, config, 4).double()
    ids = torch.tensor([0, 3, 3, N - 1, 17])
    parameters = list(module.parameters())
    many = sum(p.numel() for p in parameters) > 500
    with enn.use_fused(True):
        torch.autograd.gradcheck(lambda *_: module(ids), parameters, atol=1e-5, fast_mode=many)


def arguments(name, config, dtype=torch.float32):
    """What a module gives its operator."""
    module = make(name, config, 12).to(dtype)
    operator, given = getattr(_ops, name), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ops, name, lambda *args: given.append(args) or torch.zeros(3, 12))
        module(torch.tensor([0, 3, N - 1]))
    ids, weights, fixed, *others = given[0]
    return operator, ids, [w.detach().requires_grad_() for w in weights], fixed, others


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "config"), FLOATS)
def test_opcheck(name, config, dtype):
    operator, ids, weights, fixed, (rows, *settings) = arguments(name, config, dtype)
    torch.library.opcheck(operator._forward, (ids, weights, fixed, rows, *settings))
    sizes = [size for w in weights for size in w.shape]
    needed = [w.detach() for w in weights]
    grad = torch.randn(3, 12, dtype=dtype)
    torch.library.opcheck(operator._backward, (grad, ids, needed, fixed, sizes, rows, *settings))


def test_opcheck_of_codes():
    ids, weight = torch.tensor([0, 3, 3]), torch.randn(7, 12, requires_grad=True)
    torch.library.opcheck(_ops.codes._forward, (ids, [weight], [], 7))
    torch.library.opcheck(_ops.codes._backward, (torch.randn(3, 12), ids, [], [], [7, 12], 7))
    for dtype, steps in itertools.product((torch.int8, torch.int16), (1, 7)):
        codes = torch.randint(-100, 100, (7, 12), dtype=dtype)
        torch.library.opcheck(_ops._decoded, (ids, codes, torch.rand(steps, 1)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["compo", "robe", "adapt", "int8", "alpt"])
def test_under_compile(name, way):
    torch._dynamo.reset()
    eager, other = make(name, {}, 12), make(name, {}, 12)
    compiled = torch.compile(other, backend="aot_eager")
    for step, ids in enumerate((torch.tensor([0, 3, 3, N - 1]), torch.arange(40).reshape(5, 8))):
        gradient = torch.ones(*ids.shape, 12)
        with enn.use_fused(False):
            want, wanted = rows_and_gradients(eager, ids, gradient)
        with way():
            found, gradients = rows_and_gradients(compiled, ids, gradient)
        assert torch.equal(found, want)
        assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))
        with torch.no_grad():
            for p in (*eager.parameters(), *other.parameters()):
                p += 0.01
        for module in (eager, other):
            module.after_step(step)
    torch._dynamo.reset()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["compo", "robe", "adapt", "int8", "alpt", "tt"])
def test_autocast(name, way):
    module = make(name, {}, 8)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    ids = torch.arange(0, N, 7)
    first = 0.0
    with way():
        for step in range(20):
            with torch.autocast("cpu", torch.bfloat16):
                rows = module(ids)
            assert rows.dtype == torch.float32
            loss = (rows - 1).square().mean()
            first = loss.item() if step == 0 else first
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            module.after_step(step)
    assert loss < 0.6 * first


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["compo", "robe", "adapt", "int8", "tt"])
def test_no_ids(name, way):
    module = make(name, {}, 8)
    with way():
        rows, gradients = rows_and_gradients(module, torch.zeros((0, 3), dtype=torch.int64), torch.zeros(0, 3, 8))
    assert rows.shape == (0, 3, 8)
    assert all(not g.any() for g in gradients)


@pytest.mark.parametrize("name", ["compo", "robe", "adapt", "int8", "tt"])
def test_ids_out_of_range_are_refused(name):
    module = make(name, {}, 8)
    with enn.use_fused(True):
        for bad in (N, -1):
            with pytest.raises(errors.IdRangeError, match=f"0 to {N - 1}, found {bad}"):
                module(torch.tensor([0, bad]))


def test_weights_that_are_not_read_again_may_change_before_backward():
    """As with torch's own embedding: of products alone the backward direction reads the weights."""
    for name, config in (("adapt", {}), ("robe", {}), ("compo", {"op": "add"}), ("compo", {})):
        module = make(name, config, 8)
        with enn.use_fused(True):
            rows = module(torch.tensor([1, 2]))
        with torch.no_grad():
            for p in module.parameters():
                p += 1
        if (name, config) != ("compo", {}):
            rows.sum().backward()
            continue
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            rows.sum().backward()


def test_one_place_says_what_serves(monkeypatch):
    weight = torch.zeros(3, 4)
    assert not _ops.fused(weight)  # on the CPU the chain
    monkeypatch.setattr(_ops, "KERNELS_ON", ["cpu"])
    monkeypatch.setattr(_ops, "_built", lambda: True)
    assert _ops.fused(weight)
    assert not _ops.fused(weight.double()) and not _ops.fused(weight.half())
    assert not _ops.fused(weight, torch.zeros(4, 3).T)
    torch.use_deterministic_algorithms(True)
    try:
        assert not _ops.fused(weight)
    finally:
        torch.use_deterministic_algorithms(False)
    with enn.use_fused(False):
        assert not _ops.fused(weight)
        with enn.use_fused(None):
            assert _ops.fused(weight)
    monkeypatch.setattr(_ops, "_built", lambda: False)
    assert not _ops.fused(weight)
    with enn.use_fused(True):
        assert _ops.fused(weight.double())


def test_ids_that_kernels_cannot_follow_are_left_to_torch(monkeypatch):
    """Those of the host beside weights of a device would be read as if they lay there."""
    monkeypatch.setattr(_ops, "KERNELS_ON", ["cpu", "meta"])
    monkeypatch.setattr(_ops, "_built", lambda: True)
    monkeypatch.setattr(trained, "run", lambda *args, **more: pytest.fail("a kernel ran"))
    weight = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(_ops.compo(torch.tensor([2, 0], dtype=torch.int32), [weight], [], 3, 3, "add"), weight[[2, 0]])
    assert _ops.compo(torch.tensor([2, 0]), [weight.to("meta")], [], 3, 3, "add").is_meta


def test_a_map_of_64_bits_falls_back():
    assert _ops._adapt([torch.zeros(5, dtype=torch.int64)], [[4, 2]], True, 2, 2, 0, False) is None
    assert _ops._adapt([torch.zeros(5, dtype=torch.int32)], [[4, 2]], True, 2, 2, 0, False) is not None


@needs_kernels
def test_kernels_refuse_weights_that_do_not_fit():
    ids, rows = torch.tensor([0]), torch.zeros(1, 8)
    table = torch.zeros(10, 8)

    def run(kind, config, names, shape=(10, 8)):
        weights = {name: (table.data_ptr(), table.nbytes, 0) for name in names}
        trained.run(
            kind, config, shape, weights, (ids.data_ptr(), 1), rows.data_ptr(), backward=False, device=trained.HOST,
            stream=0,
        )  # fmt: skip

    run("compo", {"partitions": 1}, ["table0"])
    for kind, config, names, text in (
        ("compo", {"partitions": 1}, ["table1"], "table0 are missing"),
        ("compo", {"partitions": 2, "collisions": 3}, ["table0", "table1"], "of the wrong size"),
        ("compo", {"partitions": 5}, ["table0"], "from 1 to 4"),
        ("compo", {"collisions": 0}, ["table0"], "at least 1"),
        ("robe", {"size": 7, "chunk": 8}, ["pool"], "must hold a chunk"),
        ("adapt", {"hot": -1}, ["table"], "hot must not be negative"),
        ("codes", {"bytes": 3}, ["codes", "step"], "1 or 2 bytes"),
        ("tt", {"cores": 5}, ["core0"], "2 to 4 cores"),
        ("tt", {"rows0": 5, "values0": 1, "rank0": 16, "rows1": 5, "values1": 1}, ["core0", "core1"], "do not make"),
        ("tt", {"rows0": 5, "values0": 4, "rank0": 4, "rows1": 2}, ["core0", "core1"], "not those of a tensor train"),
        ("tt", {"rows0": 9, "values0": 4, "rank0": 4}, ["core0"], "core0 are missing or of the wrong size"),
    ):
        with pytest.raises(ValueError, match=text):
            run(kind, config, names)
    with pytest.raises(KeyError):
        run("nothing", {}, [])


@needs_kernels
def test_an_id_out_of_range_leaves_its_row_to_the_host():
    """What stops a device stops one row here: nothing outside of the weights is read or written."""
    table, out = torch.ones(3, 4), torch.full((3, 4), 77.0)
    ids = torch.tensor([1, 3, -1])
    launch = _ops._compo([], [[3, 4]], 3, "add")
    _ops._run("compo", launch, ids, out, (3, 4), None, [table])
    assert out.tolist() == [[1.0] * 4, [77.0] * 4, [77.0] * 4]
    gradient = torch.zeros(3, 4)
    _ops._run("compo", launch, ids, out, (3, 4), [gradient], [])
    assert gradient.tolist() == [[0.0] * 4, [1.0] * 4, [0.0] * 4]


@needs_kernels
def test_trains_too_long_for_a_block_of_threads_fall_back():
    """And one that just fits is computed."""
    assert _ops._tt([], [(2, 1, 2, 8), (2, 8, 2, 8), (2, 8, 2, 8), (2, 8, 2, 8), (2, 8, 2, 1)], 32) is None
    for rank, serves in ((1535, True), (1536, False)):
        shapes = [(2, 1, 2, 1), (2, 1, 2, rank), (2, rank, 1, 1)]
        launch = _ops._tt([], shapes, 4)
        assert (launch is not None) == serves
        if launch is not None:
            cores = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
            ids, rows, grad = torch.arange(8), torch.empty(8, 4), torch.ones(8, 4)
            _ops._run("tt", launch, ids, rows, (8, 4), None, cores)
            torch.testing.assert_close(rows, _rows.tt_rows(ids, cores, [], 4), rtol=1e-4, atol=1e-4)
            found = [torch.zeros(shape) for shape in shapes]
            _ops._run("tt", launch, ids, grad, (8, 4), found, cores)
            torch.testing.assert_close(found, _rows.tt_gradients(grad, ids, cores, [], shapes, 4), rtol=1e-4, atol=1e-4)


def test_plain_gradients_are_those_of_autograd():
    """In float64 too, and for a single table."""
    ids = torch.tensor([0, 5, 5, 11])
    for op, tables in itertools.product(("multiply", "add", "concat"), (1, 2, 3, 4)):
        weights = [torch.randn(12, 3, dtype=torch.float64, requires_grad=True) for _ in range(tables)]
        rows = _rows.compo_rows(ids, weights, [], 2, op)
        grad = torch.randn_like(rows)
        want = torch.autograd.grad(rows, weights, grad)
        found = _rows.compo_gradients(grad, ids, [w.detach() for w in weights], [], [w.shape for w in weights], 2, op)
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
