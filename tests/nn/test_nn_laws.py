"""What every module promises: forward = exported lookup, gradients, sizes, the faces of torch's own modules."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest

import embstore
from embstore import errors, registry
from embstore.testing import check_trained

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

# Other configurations of a module than its defaults; a new module needs no line here.
CONFIGS = {
    "hash": [
        {"sign": False},
        {"sign": True, "rows": 7},
        {"sign": True, "hash": "mix", "rows": 20},
        {"sign": False, "hash": "mix", "rows": 20},
        {"table_dtype": "int8"},
        {"sign": True, "table_dtype": "int4"},
    ],
    "compo": [
        {"op": "add", "collisions": 7},
        {"op": "concat", "partitions": 3},
        {"partitions": 4},
        {"op": "concat", "partitions": 1},
        {"table_dtype": "int8"},
        {"op": "add", "partitions": 3, "table_dtype": "int4"},
        {"op": "concat", "partitions": 3, "table_dtype": "int4"},
        {"partitions": 4, "table_dtype": "int8"},
    ],
    "memcom": [
        {"sign": False},
        {"sign": True, "rows": 7},
        {"sign": True, "bias": True, "table_dtype": "int4", "rows": 7},
        {"bias": True, "rows": 9},
        {"table_dtype": "int8"},
        {"bias": True, "table_dtype": "int4"},
    ],
    "adapt": [
        {"sign": False},
        {"map": "hot_ids", "sign": False},
        {"sign": True, "hot": 5, "cold": 7},
        {"sign": True, "hot": 5, "cold": 7, "map": "hot_ids", "table_dtype": "int8"},
        {"map": "hot_ids"},
        {"hot": 0, "cold": 3, "map": "hot_ids"},
        {"hot": 30, "cold": 7},
        {"table_dtype": "int8"},
        {"map": "hot_ids", "table_dtype": "int4"},
    ],
    "dhe": [{"hashes": 32, "width": 24, "layers": 2}, {"hashes": 32, "width": 9, "encoding": "gaussian"}],
    "cafe": [{"sign": False}, {"hot": 50, "cold": 5, "threshold": 0.5, "decay_every": 2}, {"table_dtype": "int8"}],
    "fourier": [
        {"features": 6, "width": 9, "frequencies": "linear"},
        {"features": 32, "width": 20, "residual": False},
    ],
    "ngram_hash": [{"features": 30, "least": 1, "most": 3}],
    "define": [{"short": 6, "expanded": 11, "layers": 2, "groups": 2}, {"short": 3, "layers": 1, "groups": 1}],
    "robe": [
        {"wrap": True, "size": 129, "sign": False},
        {"chunk": 128, "sign": True},
        {"wrap": True, "chunk": 5},
        {"chunk": 2, "sign": False},
        {"pool_dtype": "int8", "sign": False},
        {"pool_dtype": "int8", "wrap": True, "chunk": 5},
        {"pool_dtype": "int8", "chunk": 128, "sign": False},
        {"chunk": 64, "size": 64},
    ],
    "int8": [{"step": 0.003, "sparse": False}],
    "alpt": [{"bits": 16}],
    "deeplight": [{"values": "float32", "index": "columns", "regrow": False}, {"values": "int8", "density": 0.7}],
    "pep": [{"per": "feature-dim", "values": "int8"}, {"per": "feature"}, {"per": "global", "rewind": False}],
    "autosrh": [{"groups": 2, "blocks": 3, "values": "float32"}],
    "dnis": [{"groups": (0.5, 0.5), "values": "int8", "index": "columns"}],
    "mde": [
        {"dims": 3},
        {"blocks": 3, "alpha": 0.7},
        {"blocks": 1},
        {"dims": 3, "table_dtype": "int8"},
        {"blocks": 3, "alpha": 0.7, "table_dtype": "int4"},
        {"blocks": 1, "table_dtype": "int4"},
    ],
    "autodim": [{"dims": [3]}, {"inherit": True}],
    "optembed": [{"penalty": 0.1}],
    "tt": [
        {"cores": 3},
        {"cores": 4, "rank": 5},
        {"rank": 1},
        {"core_dtype": "int8"},
        {"cores": 3, "rank": 11, "core_dtype": "int8"},
    ],
    "dedup": [
        {"block_rows": 4},
        {"block_dims": 5},
        {"block_rows": 3, "block_dims": 7, "limit": 3000},
        {"block_dims": 5, "place_dtype": "uint16"},
    ],
    "dpq": [{"m": 3, "bits": 5}, {"bits": 3, "codebook_dtype": "float16"}, {"variant": "sx", "bits": 4}],
    "mgqe": [
        {"m": 5},
        {"hot": 0.0},
        {"hot": 1.0, "bits": 5, "cold_bits": 3},
        {"variant": "sx", "bits": 4, "cold_bits": 2},
    ],
}
# Fields of stored methods that modules take as an argument of their own.
STORED = {name: [{"seed": 2**32 - 1}] for name in ("hash", "robe", "adapt", "dhe")}
STORED["ngram_hash"] = [{"projection": False, "seed": 7}]
# Modules whose rows sum in another order than the stored kernel: relative tolerance.
CLOSE = {"dhe": 1e-6, "fourier": 1e-6, "ngram_hash": 1e-6, "define": 1e-6, "mde": 1e-6, "autodim": 1e-6, "tt": 1e-6}
N, DIM = 203, 12

ALL = [(name, config) for name in enn.names() for config in ({}, *CONFIGS.get(name, ()))]


def make(name, config, dim=DIM, **more):
    counts = np.random.default_rng(0).zipf(1.5, N).astype(np.float64)
    return enn.embedding(name, N, dim, counts=counts, **config, **more)


def finished(module):
    """Past every stage, without training."""
    for stage in module.stages():
        module.before_step(0)
        module.after_step(0)
        module.end_of_stage(stage.name)
    return module.eval()


def searched(module):
    """In its last stage: searches normalize or mask rows, which keeps them from the targets of a test."""
    for stage in module.stages()[:-1]:
        module.end_of_stage(stage.name)
    return module


@pytest.mark.parametrize(("name", "config"), ALL)
def test_forward_is_the_exported_lookup(name, config, tmp_path):
    module = finished(make(name, config))
    table = module.export(tmp_path / "t", keys=[f"k{i}" for i in range(N)])
    ids = np.concatenate([[0, N - 1], np.random.default_rng(1).integers(0, N, 500)])
    with torch.no_grad():
        rows = module(torch.from_numpy(ids)).numpy()
    for read in (embstore.open(tmp_path / "t"), embstore.Table(table._stored, backend="numpy")):
        if name in CLOSE:
            scale = np.abs(rows).max() * CLOSE[name]
            np.testing.assert_allclose(read.lookup(ids), rows, rtol=CLOSE[name], atol=scale)
        else:
            assert np.array_equal(read.lookup(ids), rows)
    assert table.nbytes == module.nbytes_inference()
    assert table.verify() == []
    assert np.array_equal(table["k3"], table[3])


@pytest.mark.parametrize(("name", "config"), ALL)
def test_gradients(name, config):
    module = make(name, config, dim=4).double()
    ids = torch.tensor([0, 3, 3, N - 1, 17])
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters or getattr(module, "straight_through", False):
        pytest.skip("not differentiable in the ordinary sense: see the module's own tests")
    many = sum(p.numel() for p in parameters) > 500  # then along random directions, not weight by weight
    torch.autograd.gradcheck(lambda *_: module(ids), parameters, eps=1e-6, atol=1e-5, nondet_tol=1e-9, fast_mode=many)


@pytest.mark.parametrize(("name", "config"), ALL)
def test_it_learns(name, config):
    """A few steps of Adam bring rows nearer to targets that the method can express."""
    torch.manual_seed(0)
    module = make(name, config, dim=8)
    if module.joint is not None:
        searched(module)
    ids = torch.arange(N)
    with torch.no_grad():
        target = module(ids) + 0.3
        if getattr(module.method, "sign", False):  # values shared under both signs cannot all move one way
            target = module(ids) * -10
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    losses = []
    for step in range(60):
        module.before_step(step)
        loss = torch.nn.functional.mse_loss(module(ids), target)
        term = module.regularizer()
        optimizer.zero_grad()
        (loss if term is None else loss + term).backward()
        optimizer.step()
        module.after_step(step)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("name", "config"), ALL)
def test_faces_of_torch(name, config):
    ids = torch.tensor([[1, 2, 3], [4, 4, 0]])
    rows = make(name, config).eval()
    assert rows(ids).shape == (2, 3, DIM)
    for mode in ("sum", "mean", "max"):
        bags = make(name, config, mode=mode).eval()
        bags.load_state_dict(rows.state_dict())
        each = rows(ids)
        want = {"sum": each.sum(1), "mean": each.mean(1), "max": each.max(1).values}[mode]
        torch.testing.assert_close(bags(ids), want)
        torch.testing.assert_close(bags(ids.reshape(-1), torch.tensor([0, 3])), want)
    weighted = make(name, config, mode="sum").eval()
    weighted.load_state_dict(rows.state_dict())
    w = torch.rand(2, 3)
    torch.testing.assert_close(weighted(ids, per_sample_weights=w), (rows(ids) * w[..., None]).sum(1))


@pytest.mark.parametrize(("name", "config"), ALL)
def test_same_seed_same_weights_and_copies(name, config):
    a, b, c = (make(name, config, seed=s) for s in (1, 1, 2))
    ids = torch.arange(N)
    assert torch.equal(a.eval()(ids), b.eval()(ids))
    assert not torch.equal(a(ids), c.eval()(ids))
    with torch.no_grad():
        for p in a.parameters():
            p += 1
    assert not torch.equal(a(ids), b(ids))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(ids), b(ids))
    assert torch.equal(a(ids), copy.deepcopy(a)(ids))


@pytest.mark.parametrize(("name", "config"), ALL)
def test_sizes(name, config):
    module = make(name, config)
    assert module.nbytes_training("adam") >= module.nbytes_training("sgd") > 0
    weights = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    assert module.nbytes_training("adam") - module.nbytes_training("sgd") == 2 * weights
    assert module.nbytes_training(torch.optim.SGD(module.parameters(), 0.1)) == module.nbytes_training("sgd")


@pytest.mark.parametrize(("name", "config"), ALL)
def test_bad_ids(name, config):
    module = make(name, config)
    with pytest.raises(errors.IdRangeError, match=f"0 to {N - 1}, found {N}"):
        module(torch.tensor([0, N]))
    with pytest.raises(errors.IdRangeError, match="found -1"):
        module(torch.tensor([-1]))
    with pytest.raises(errors.IdTypeError):
        module(torch.tensor([0.5]))


@pytest.mark.parametrize("name", registry.trained())
def test_kernels_of_trained_methods(name):
    for dim in (1, 5, 16, 50, 64, 128):
        check_trained(registry.get(name)(), rows=67, dim=dim)
        for config in (*CONFIGS.get(name, ()), *STORED.get(name, ())):
            check_trained(registry.get(name)(**config), rows=67, dim=dim)


@pytest.mark.parametrize("name", registry.trained())
def test_every_field_is_varied(name):
    """The kernels see each config field of each stored method at another value than its default."""
    cls = registry.get(name)
    given = [cls(**config) for config in (*CONFIGS.get(name, ()), *STORED.get(name, ()))]
    same = [f.name for f in dataclasses.fields(cls) if {getattr(m, f.name) for m in given} <= {f.default}]
    assert not same, f"add values of {same} to CONFIGS or STORED"


@pytest.mark.parametrize("name", registry.trained())
def test_compress_names_the_trainer(name, tmp_path):
    with pytest.raises(errors.ConfigError, match=rf"embstore.nn.embedding\('{name}'"):
        embstore.compress(np.zeros((5, 4), np.float32), tmp_path / "t", name)


# Configurations that can stand for 2**40 rows.
HUGE = {
    "hash": {"rows": 1000, "hash": "mix"},
    "compo": {"partitions": 4, "collisions": 1024},
    "robe": {"size": 100_000, "wrap": True, "sign": True},
    "cafe": {"hot": 500, "cold": 700},
    "dhe": {"width": 40},
    "fourier": {"features": 64},
    "tt": {"rank": 3, "cores": 4},
}


@pytest.mark.parametrize("name", HUGE)
def test_ids_up_to_2_to_the_40(name, tmp_path):
    module = enn.embedding(name, 2**40, 8, **HUGE[name]).eval()
    table = module.export(tmp_path / "t")
    ids = np.concatenate([[0, 2**40 - 1], np.random.default_rng(0).integers(0, 2**40, 10_000)])
    with torch.no_grad():
        rows = module(torch.from_numpy(ids)).numpy()
    for read in (table, embstore.Table(table._stored, backend="numpy")):
        if name in CLOSE:
            np.testing.assert_allclose(read.lookup(ids), rows, rtol=CLOSE[name], atol=np.abs(rows).max() * CLOSE[name])
        else:
            assert np.array_equal(read.lookup(ids), rows)
    assert len(np.unique(rows, axis=0)) > 500


def test_the_smallest_fields_stay_full():
    sizes = [5, 1000, 30, 7000]
    module = enn.embedding("hash", embedding_dim=16, field_sizes=sizes, budget=0.1)
    assert [field.id for field in module.fields] == ["float32", "hash", "float32", "hash"]
    module = enn.embedding("int8", embedding_dim=16, field_sizes=sizes, budget=0.25)  # not where nothing is left for it
    assert [field.id for field in module.fields] == ["int8"] * 4


def test_fields_spend_a_budget(tmp_path):
    sizes = [5, 1000, 30, 7000]
    full = 4 * 16 * sum(sizes)
    for ratio in (0.5, 0.1, 0.01):
        module = enn.embedding("hash", embedding_dim=16, field_sizes=sizes, budget=ratio)
        assert 0.9 * full * ratio < module.nbytes_inference() <= full * ratio
    ids = torch.stack([torch.randint(0, n, (9,)) for n in sizes], dim=1)
    rows = module(ids)
    assert rows.shape == (9, 4, 16)
    tables = module.export(tmp_path / "set")
    assert list(tables) == ["0", "1", "2", "3"] and tables.nbytes == module.nbytes_inference()
    assert np.array_equal(tables.lookup(ids.numpy()).reshape(9, 4, 16), rows.detach().numpy())
    named = module.export(
        tmp_path / "set", names=["a", "b", "c", "d"], keys=[None, None, [f"k{i}" for i in range(30)], None],
        overwrite=True,
    )  # fmt: skip
    assert np.array_equal(named["c"]["k7"], tables["2"][7])
    with pytest.raises(errors.ConfigError, match="one a field"):
        module.export(tmp_path / "other", names=["a"])
    with pytest.raises(errors.ConfigError, match="must differ"):
        module.export(tmp_path / "other", names=["a", "b", "c", "c"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", [name for name in enn.names() if enn._create.module_class(name)[0].joint])
@pytest.mark.parametrize("ratio", [None, 0.5, 0.2])
def test_fields_decided_together(name, ratio, tmp_path):
    sizes = [700, 2, 1000, 400]
    module = enn.embedding(name, embedding_dim=16, field_sizes=sizes, budget=ratio)
    assert [field.id for field in module.fields] == [name, "float32", name, name] or ratio is None
    assert len(list(module.candidates())) == 0
    module.eval()
    for stage in module.stages():
        if stage.needs == "scores":
            for candidate in itertools.islice(module.candidates(), 30):
                module.score(candidate, -sum(candidate))
        module.end_of_stage(stage.name)
    ids = torch.stack([torch.randint(0, n, (50,)) for n in sizes], dim=1)
    with torch.no_grad():
        rows = module(ids)
    tables = list(module.export(tmp_path / "set").values())
    assert sum(table.nbytes for table in tables) == module.nbytes_inference() <= (ratio or 1.01) * 64 * sum(sizes)
    for i, table in enumerate(tables):
        np.testing.assert_allclose(table.lookup(ids[:, i].numpy()), rows[:, i], rtol=1e-6, atol=1e-6 * rows.abs().max())
    again = copy.deepcopy(module)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(ids), rows)
