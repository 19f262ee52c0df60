"""Product codes learned with a model: what gets which gradient, who chooses what, centroids that die, export."""

import copy

import numpy as np
import pytest

import embstore
from embstore import errors
from embstore.method import nbytes

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

N, DIM = 300, 12
COUNTS = np.random.default_rng(0).permutation(N).astype(float)


def make(name, **config):
    return enn.embedding(name, N, DIM, counts=COUNTS, **config)


def nearest(module, ids):
    """Codes by an argmin over explicit distances, hot and cold ids apart."""
    books = (module._values() if module.keys is None else module.keys).detach().double()
    codes = torch.empty(len(ids), len(module.parts()), dtype=torch.int64)
    allowed = torch.full((len(ids),), len(books))
    if module.id == "mgqe":
        allowed[module.group[ids] == 1] = 1 << module.method.cold_bits
    for p, (first, last) in enumerate(module.parts()):
        away = (module.weight[ids, None, first:last].detach().double() - books[None, :, first:last]).square().sum(2)
        away[torch.arange(len(books)) >= allowed[:, None]] = torch.inf
        codes[:, p] = away.argmin(1)
    return codes


ALL = [
    (name, {"variant": variant, **config})
    for variant in ("vq", "sx")
    for name, config in (
        ("dpq", {"m": 5, "bits": 4}),
        ("dpq", {"m": 3, "bits": 6, "codebook_dtype": "float16"}),
        ("mgqe", {"m": 4, "bits": 5, "cold_bits": 3}),
    )
]


@pytest.mark.parametrize(("name", "config"), ALL)
def test_rows_are_the_nearest_centroids(name, config):
    module = make(name, **config)
    ids = torch.arange(N)
    codes = nearest(module, ids)
    assert torch.equal(module.codes(ids), codes)
    assert torch.equal(module(ids), module.eval()(ids))
    values = module._values().detach()
    want = torch.cat([values[codes[:, p], first:last] for p, (first, last) in enumerate(module.parts())], dim=1)
    assert torch.equal(module(ids), want)
    if config.get("codebook_dtype") == "float16":
        assert torch.equal(values, values.half().float()) and not torch.equal(values, module.codebooks)


@pytest.mark.parametrize("name", ["dpq", "mgqe"])
def test_a_row_does_not_depend_on_its_batch(name):
    module = make(name)
    whole = module.codes(torch.arange(N))
    for i in (0, 7, N - 1):
        assert torch.equal(module.codes(torch.tensor([i]))[0], whole[i])


@pytest.mark.parametrize("name", ["dpq", "mgqe"])
def test_vq_gives_the_gradient_to_the_queries(name):
    module = make(name, bits=5, **({"cold_bits": 3} if name == "mgqe" else {})).double()
    ids = torch.tensor([4, 9, 9, 250])
    upstream = torch.randn(4, DIM, dtype=torch.float64)
    module(ids).backward(upstream)
    want = torch.zeros(N, DIM, dtype=torch.float64).index_add_(0, ids, upstream)
    torch.testing.assert_close(module.weight.grad, want)
    assert module.codebooks.grad is None


@pytest.mark.parametrize("name", ["dpq", "mgqe"])
def test_the_regularizer_and_its_gradient(name):
    module = make(name, m=4, bits=4, commitment=0.5, **({"cold_bits": 2} if name == "mgqe" else {})).double()
    ids = torch.tensor([[4, 9, 9], [250, 4, 4]])
    assert module.regularizer() is None
    module(ids)
    term = module.regularizer()
    flat = ids.reshape(-1)
    gap = (module(flat) - module.weight[flat]).detach()
    assert term.item() == pytest.approx(1.5 * gap.square().mean().item())
    term.backward()
    # Six ids of twelve values each: a query is drawn by half of what its centroids are drawn by.
    want = torch.zeros_like(module.weight).index_add_(0, flat, -0.5 * 2 * gap / gap.numel())
    torch.testing.assert_close(module.weight.grad, want)
    assert module.codebooks.grad.sum(0).allclose((2 * gap / gap.numel()).sum(0))


@pytest.mark.parametrize("name", ["dpq", "mgqe"])
def test_sx_gives_the_gradient_of_the_softmax(name):
    config = {"variant": "sx", "m": 4, "bits": 4, "temperature": 0.7} | ({"cold_bits": 2} if name == "mgqe" else {})
    module = make(name, **config).double()
    ids = torch.tensor([4, 9, 9, 250, 17])
    soft = lambda *_: module._softened(ids)  # noqa: E731
    torch.autograd.gradcheck(soft, [module.weight, module.keys], fast_mode=True)
    upstream = torch.randn(5, DIM, dtype=torch.float64)
    module(ids).backward(upstream)
    for p in (module.weight, module.keys):
        (want,) = torch.autograd.grad(module._softened(ids), p, upstream)
        torch.testing.assert_close(p.grad, want)
    chosen = torch.zeros_like(module.codebooks).scatter_add_(0, module.codes(ids)[:, module.part_of], upstream)
    torch.testing.assert_close(module.codebooks.grad, chosen)
    assert module.regularizer() is None


def test_a_low_temperature_is_the_choice_itself():
    module = make("mgqe", variant="sx", m=4, bits=4, cold_bits=2, temperature=1e-6).double()
    ids = torch.arange(N)
    torch.testing.assert_close(module._softened(ids), module(ids), rtol=0, atol=1e-9)


def test_frequent_ids_are_hot():
    module = make("mgqe", hot=0.2, bits=6, cold_bits=2)
    hot = (module.group == 0).nonzero()[:, 0].numpy()
    assert len(hot) == 60 and COUNTS[hot].min() > np.delete(COUNTS, hot).max()
    codes = module.codes(torch.arange(N))
    assert codes[module.group == 1].max() == 3 and codes[module.group == 0].max() > 3
    with pytest.raises(errors.ConfigError, match="needs counts"):
        enn.embedding("mgqe", N, DIM)
    with pytest.raises(errors.ConfigError, match="by of module 'mgqe' must be 'counts'"):
        make("mgqe", by="norm")


@pytest.mark.parametrize("counts", [COUNTS, -np.sort(-COUNTS), np.ones(N)])
def test_bytes_of_groups_in_order_and_not(counts, tmp_path):
    module = enn.embedding("mgqe", N, DIM, counts=counts)
    table = module.export(tmp_path / "t")
    assert table.nbytes == module.nbytes_inference() <= nbytes(module.method, module.shape)


@pytest.mark.parametrize("variant", ["vq", "sx"])
@pytest.mark.parametrize("name", ["dpq", "mgqe"])
def test_dead_centroids_come_back(name, variant):
    config = {"bits": 5, "variant": variant, "restart_every": 2} | ({"cold_bits": 3} if name == "mgqe" else {})
    module = make(name, **config)
    compared = module.codebooks if variant == "vq" else module.keys
    with torch.no_grad():
        compared[2:] += 100.0  # no row is near
    ids = torch.arange(N)
    module(ids)
    module.after_step(0)
    assert (compared[2:] > 50).all()
    before = module.eval()(ids)
    module.train()(ids)
    module.after_step(1)
    assert (compared < 50).all()
    error = (module._compared().detach() - compared).abs().max()
    assert error == 0 and module.codes(ids).max() == 31
    if variant == "vq":
        old, new = ((module.weight - rows).square().sum() for rows in (before, module(ids)))
        assert new < 0.5 * old
    else:  # a query that moves to a new key keeps its value
        torch.testing.assert_close(module.eval()(ids), before, rtol=0, atol=2 * module._bound)


def test_cold_centroids_come_back_to_cold_queries():
    module = make("mgqe", m=3, bits=4, cold_bits=2, hot=0.5, restart_every=1)
    hot, cold = (module.group == 0).nonzero()[:, 0], (module.group == 1).nonzero()[:, 0]
    with torch.no_grad():
        module.weight[hot] += 5.0
        module.codebooks.fill_(1000.0)
    module(torch.cat([hot, cold]))
    module.after_step(0)
    assert (module.codebooks[1:4] < 1).all() and (module.codebooks[4:] > 4).all()


def test_centroids_in_use_stay():
    module = make("dpq", bits=4, restart_every=1)
    module(torch.arange(N))
    used = [module.codes(torch.arange(N))[:, p].unique() for p in range(len(module.parts()))]
    before = module.codebooks.detach().clone()
    module.after_step(0)
    for at, (first, last) in zip(used, module.parts(), strict=True):
        assert torch.equal(module.codebooks[at, first:last], before[at, first:last])


def test_rows_that_no_batch_had_are_encoded_at_export(tmp_path):
    module = make("dpq", m=6, bits=6)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for step in range(20):
        ids = torch.arange(0, N, 2)
        optimizer.zero_grad()
        ((module(ids) - 1).square().mean() + module.regularizer()).backward()
        optimizer.step()
        module.after_step(step)
    table = module.eval().export(tmp_path / "t")
    rows = module(torch.arange(N)).detach().numpy()
    assert np.array_equal(table.lookup(np.arange(N)), rows)
    assert np.array_equal(embstore.Table(table._stored, backend="numpy").lookup(np.arange(N)), rows)
    assert table.method.id == "pq"


def test_a_module_copies_in_the_middle_of_a_step():
    module = make("dpq")
    module(torch.arange(9))
    again = copy.deepcopy(module)
    assert again.regularizer().item() == module.regularizer().item()


@pytest.mark.parametrize(("name", "floor_config"), [("dpq", {}), ("mgqe", {"bits": 4, "cold_bits": 2})])
def test_budgets_are_kept_and_floors_named(name, floor_config):
    n = 20_000
    counts = np.arange(n)
    for ratio in (0.5, 0.2, 0.1):
        module = enn.embedding(name, n, 16, budget=ratio, counts=counts, **floor_config)
        assert module.nbytes_inference() <= 64 * n * ratio
    with pytest.raises(errors.BudgetError, match="at least") as refused:
        enn.embedding(name, n, 16, budget=100, counts=counts, **floor_config)
    floor = int(str(refused.value).split("at least ")[1].split(" bytes")[0].replace(",", ""))
    assert enn.embedding(name, n, 16, budget=floor, counts=counts, **floor_config).nbytes_inference() <= floor
    with pytest.raises(errors.BudgetError):
        enn.embedding(name, n, 16, budget=floor - 1, counts=counts, **floor_config)


def test_refused():
    for name, value in (("variant", "hard"), ("temperature", 0), ("commitment", -1), ("restart_every", 0)):
        with pytest.raises(errors.ConfigError, match=f"{name} of dpq"):
            make("dpq", **{name: value})
