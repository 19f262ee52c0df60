"""What the tests of deeplight, pep, autosrh and dnis share."""

import numpy as np
import pytest

import embstore

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

N, DIM = 300, 8


def make(name, **more):
    return enn.embedding(name, N, DIM, counts=np.random.default_rng(0).zipf(1.5, N), **more)


def target():
    return torch.from_numpy(np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32))


def learn(module, towards, steps, rate=0.05):
    """Every stage, so many steps of Adam each; every second one of validation data where a stage needs that."""
    for stage in module.stages():
        module.begin_stage(stage.name, steps)
        optimizer = torch.optim.Adam(module.parameters(), rate)
        for step in range(steps):
            module.before_step(step, stage.needs == "validation" and step % 2 == 0)
            optimizer.zero_grad()
            (module(torch.arange(len(towards))) - towards).square().mean().backward()
            optimizer.step()
            module.after_step(step)
        module.end_of_stage(stage.name)


def check_export(module, path):
    """Rows of the exported table are those of the module to the last bit, its bytes those promised; the rows."""
    promised = module.nbytes_inference()
    table = module.eval().export(path)
    ids = np.arange(module.num_embeddings)
    with torch.no_grad():
        rows = module(torch.from_numpy(ids)).numpy()
    for read in (table, embstore.Table(table._stored, backend="numpy")):
        assert read.lookup(ids).tobytes() == rows.tobytes()
    assert table.method.id == "pruned" and table.nbytes == promised
    return rows
