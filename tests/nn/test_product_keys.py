"""Product-key memory: the search is that of brute force, values are any table, and it learns what it is asked."""

import numpy as np
import pytest

from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

COUNTS = np.random.default_rng(0).zipf(1.5, 144).astype(np.float64)


def memory(method="compo", n=144, **config):
    values = enn.embedding(method, n, 10, mode="sum", counts=COUNTS if n == 144 else None)
    return enn.ProductKeyMemory(7, values, **{"heads": 3, "k": 5, "key_dim": 8, **config})


@pytest.mark.parametrize(("n", "k"), [(144, 1), (144, 5), (144, 12), (144, 30), (144, 144), (1, 1), (2500, 32)])
def test_search_is_brute_force(n, k):
    torch.manual_seed(k)
    layer = memory(n=n, k=k).double()
    queries = torch.randn(20, 3, 8, dtype=torch.float64)
    scores, ids = layer.search(queries)
    side = layer.size
    whole = torch.cat(
        [layer.keys[:, 0].repeat_interleave(side, dim=1), layer.keys[:, 1].repeat(1, side, 1)], dim=2
    )  # (heads, n, key_dim)
    products = torch.einsum("nhd,hkd->nhk", queries, whole)
    want, places = products.topk(k, dim=2)
    torch.testing.assert_close(scores, want)
    assert torch.equal(ids, places)


def test_ties_are_not_lost():
    layer = memory(k=20)
    with torch.no_grad():
        layer.keys.copy_(layer.keys.sign())  # few different products
    queries = torch.randn(50, 3, 8).sign()
    scores, ids = layer.search(queries)
    halves = torch.einsum("nhsd,hskd->nhsk", queries.reshape(50, 3, 2, 4), layer.keys)
    every = (halves[:, :, 0, :, None] + halves[:, :, 1, None, :]).flatten(2)
    assert torch.equal(scores, every.topk(20, dim=2).values)
    assert torch.equal(every.gather(2, ids), scores)
    assert all(len(set(row.tolist())) == 20 for row in ids.flatten(0, 1))


@pytest.mark.parametrize("method", enn.names())
def test_forward_is_a_weighted_sum_of_rows(method):
    layer = memory(method).eval()
    x = torch.randn(2, 4, 7)
    weights, ids = layer.address(x.reshape(8, 7))
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(8, 3))
    layer.values.mode = None
    rows = layer.values(ids.flatten(1))
    layer.values.mode = "sum"
    want = (weights.flatten(1)[..., None] * rows).sum(dim=1)
    torch.testing.assert_close(layer(x), want.reshape(2, 4, 10))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradients(batch_norm):
    torch.manual_seed(0)
    layer = memory(batch_norm=batch_norm).double()
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    torch.autograd.gradcheck(lambda *_: layer(x), leaves, eps=1e-7, atol=1e-5, fast_mode=True)


def test_it_memorizes():
    torch.manual_seed(0)
    values = enn.embedding("hash", 32**2, 4, mode="sum", rows=400)
    layer = enn.ProductKeyMemory(16, values, heads=2, k=8, key_dim=16)
    x, y = torch.randn(200, 16), torch.randn(200, 4)
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    losses = []
    for _ in range(150):
        loss = torch.nn.functional.mse_loss(layer(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 and losses[-1] < 0.1
    assert len(layer.eval().address(x)[1].unique()) > 200  # of 1,024: with batch normalization many rows are used


def test_the_exported_table_serves_the_same(tmp_path):
    layer = memory().eval()
    x = torch.randn(9, 7)
    weights, ids = (each.detach().numpy() for each in layer.address(x))
    table = layer.values.export(tmp_path / "t")
    found = table.bag(ids.reshape(9, -1), per_sample_weights=weights.reshape(9, -1))
    np.testing.assert_allclose(found, layer(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_same_seed_same_layer():
    a, b, c = memory(seed=1), memory(seed=1), memory(seed=2)
    assert torch.equal(a.keys, b.keys) and torch.equal(a.query.weight, b.query.weight)
    assert not torch.equal(a.keys, c.keys)


@pytest.mark.parametrize(
    ("config", "text"),
    [({"n": 143}, "square number of rows, found 143; take 121"), ({"k": 0}, "k must be"), ({"k": 145}, "144 rows"),
     ({"heads": 0}, "heads"), ({"key_dim": 5}, "even")],
)  # fmt: skip
def test_refused(config, text):
    with pytest.raises(errors.ConfigError, match=text):
        memory(**config)


def test_values_and_inputs_that_do_not_fit():
    with pytest.raises(errors.ConfigError, match='mode="sum"'):
        enn.ProductKeyMemory(7, enn.embedding("compo", 144, 10))
    with pytest.raises(errors.ShapeError, match=r"\(n, 7\), found \(3, 8\)"):
        memory()(torch.zeros(3, 8))
