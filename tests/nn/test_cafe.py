"""CAFE: the sketch finds who is hot, follows drift, and exports what forward gives."""

import numpy as np
import pytest

import embstore
from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")


def hot_ids(module):
    return set(module.sketch_ids[module.sketch_rows >= 0].tolist())


def train(module, draw, steps, start=0, rate=0.3):
    """Steps towards a target of each id's own."""
    target = torch.from_numpy(np.random.default_rng(5).standard_normal((module.num_embeddings, module.embedding_dim)))
    optimizer = torch.optim.SGD(module.parameters(), rate)
    for step in range(start, start + steps):
        ids = torch.from_numpy(draw(step))
        module.before_step(step)
        optimizer.zero_grad()
        (module(ids) - target[ids].float()).square().sum(dim=1).mean().backward()
        optimizer.step()
        module.after_step(step)


def zipf_from(first, n):
    def draw(step):
        return (np.random.default_rng(step).zipf(1.3, 256) + first - 1) % n

    return draw


def test_frequent_ids_become_hot():
    n = 5000
    module = enn.embedding("cafe", n, 8, hot=40, cold=100, threshold=20)
    train(module, zipf_from(0, n), 60)
    found = hot_ids(module)
    assert len(found) == 40
    assert len(found & set(range(30))) >= 22  # the sketch has four slots a bucket: some lose theirs
    rows = module.sketch_rows[module.sketch_rows >= 0]
    assert len(rows.unique()) == len(rows)


def test_it_follows_drift():
    n = 5000
    module = enn.embedding("cafe", n, 8, hot=40, cold=100, threshold=20, decay=0.5, decay_every=10)
    train(module, zipf_from(0, n), 60)
    before = hot_ids(module)
    train(module, zipf_from(2000, n), 100, start=60)
    after = hot_ids(module)
    assert len(before & set(range(20))) >= 12
    assert len(after & set(range(2000, 2020))) >= 12 and len(after & set(range(20))) <= 5


def test_becoming_hot_changes_no_row():
    module = enn.embedding("cafe", 100, 4, hot=10, cold=10, threshold=5)
    ids = torch.arange(100)
    before = module(ids).detach()
    module._insert(torch.tensor([3, 50]), torch.tensor([9.0, 7.0]))
    module.after_step(0)
    assert hot_ids(module) == {3, 50}
    assert torch.equal(module(ids), before)
    with torch.no_grad():
        module.table[module.sketch_rows[module.sketch_ids == 3]] += 1
    changed = (module(ids) != before).any(dim=1)
    assert changed.nonzero()[:, 0].tolist() == [3]


def test_a_full_bucket_gives_up_its_least_and_keeps_rows():
    module = enn.embedding("cafe", 1000, 4, hot=1, cold=10, threshold=100)  # one bucket
    module._insert(torch.arange(4), torch.tensor([500.0, 2.0, 1.0, 3.0]))
    module.after_step(0)
    module._insert(torch.tensor([10, 11]), torch.tensor([5.0, 5.0]))
    scores = dict(zip(module.sketch_ids[0].tolist(), module.sketch_scores[0].tolist(), strict=True))
    assert scores == {0: 500.0, 3: 3.0, 10: 6.0, 11: 7.0}  # inherited from 2, which had 1, and from 1, which had 2


@pytest.mark.parametrize("steps", [0, 3, 60])
def test_export_is_what_forward_gives(steps, tmp_path):
    n = 3000
    module = enn.embedding("cafe", n, 8, hot=40, cold=100, threshold=20)
    train(module, zipf_from(0, n), steps)
    table = module.eval().export(tmp_path / "t")
    with torch.no_grad():
        rows = module(torch.arange(n)).numpy()
    assert np.array_equal(table.lookup(np.arange(n)), rows)
    assert table.method.id == "adapt" and table.nbytes == module.nbytes_inference()
    assert np.array_equal(embstore.Table(table._stored, backend="numpy").lookup(np.arange(n)), rows)


def test_refused():
    with pytest.raises(errors.ConfigError, match="map of module 'cafe' must be 'hot_ids'"):
        enn.embedding("cafe", 100, 4, map="table")
    for option in ({"threshold": -1}, {"decay": 2}, {"decay_every": 0}):
        with pytest.raises(errors.ConfigError, match=next(iter(option))):
            enn.embedding("cafe", 100, 4, **option)
