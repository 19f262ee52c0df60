"""Every module learns: generated clicks with planted interactions, a small DLRM, the loop of bench/train.py."""

import functools

import numpy as np
import pytest

from bench import ctr_data, metrics
from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from bench import ctr_models, train  # noqa: E402

DIM = 8
# How far below the full table a module may end at half its bytes, in AUC. The ids of these clicks have nothing in
# common, so methods that make two ids share a row lose most: that is the bound of a module without a line here.
BELOW = {"int16": 0.015, "int8": 0.02, "alpt": 0.02, "dpq": 0.02, "mgqe": 0.03, "dedup": 0.04, "tt": 0.05}
OTHERS_BELOW = 0.12
# Settings without which a module cannot be half of float32 tables as small as these.
MORE = {"define": {"stored": "int8"}, "mgqe": {"bits": 4, "cold_bits": 3}}

# Half of such a table goes to the keys' places and text: refused, not trained.
TOO_LARGE = "ngram_hash"


@functools.cache
def clicks():
    return ctr_data.generated(30_000, (600, 400, 8))


def fit(name, budget, model=ctr_models.DLRM, **config):
    data = clicks()
    module = enn.embedding(
        name, embedding_dim=DIM, field_sizes=data.field_sizes, budget=budget, counts=data.counts, **config
    )
    torch.manual_seed(0)
    loop = train.Loop(
        module,
        model(len(data.field_sizes), DIM, (32,)),
        data,
        lambda parameters: torch.optim.Adam(parameters, 0.01),
        batch=500,
        epochs=6,
    )
    return loop.run(), module


@functools.cache
def full():
    return fit("float32", None)[0]


@functools.cache
def popularity():
    data = clicks()
    return metrics.auc(data.labels[data.valid], data.popularity(data.valid))


@pytest.mark.parametrize("name", [name for name in enn.names() if name not in ("float32", TOO_LARGE)])
def test_every_module_learns(name):
    found, module = fit(name, 0.5, **MORE.get(name, {}))
    assert module.nbytes_inference() <= 0.5 * 4 * DIM * sum(clicks().field_sizes)
    assert set(found.epochs) == {stage.name for stage in module.stages()}
    assert found.valid_auc > popularity() + 0.05
    assert found.valid_auc > full().valid_auc - BELOW.get(name, OTHERS_BELOW)


def test_the_one_that_is_too_large_is_refused():
    with pytest.raises(errors.BudgetError, match="at least"):
        fit(TOO_LARGE, 0.5)


@pytest.mark.parametrize("model", sorted(ctr_models.MODELS))
def test_every_model_learns(model):
    assert fit("float32", None, ctr_models.MODELS[model])[0].valid_auc > popularity() + 0.03


class Staged(torch.nn.Module):
    """A module that records what the loop calls."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(600, 3, 2))
        self.calls, self.trained = [], []

    def stages(self):
        return enn.Stage("search", needs="validation"), enn.Stage("retrain")

    def forward(self, ids):
        return self.weight[ids % 600, torch.arange(3)]

    def begin_stage(self, name, steps):
        self.calls.append(("begin", name, steps))

    def before_step(self, step, validation=False):
        self.calls.append(("before", step, validation))

    def regularizer(self):
        self.calls.append(("regularizer",))
        return None

    def second_pass(self, loss):
        assert loss().requires_grad
        self.calls.append(("second",))

    def after_step(self, step):
        self.calls.append(("after", step))

    def end_of_stage(self, name):
        self.calls.append(("end", name))


def test_the_loop_calls_every_hook_in_order():
    data = clicks()
    module, made = Staged(), []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, 0.1))
        return made[-1]

    loop = train.Loop(module, ctr_models.DLRM(3, 2, (4,)), data, optimizer, batch=8000, epochs=1)
    assert loop.run().epochs == {"search": 1, "retrain": 1}
    step = [("regularizer",), ("second",)]
    wanted = [("begin", "search", 6)]
    for i in range(6):  # 24,000 samples are 3 batches, each after one of validation data
        wanted += [("before", i, i % 2 == 0), *step, ("after", i)]
    wanted += [("end", "search"), ("begin", "retrain", 3)]
    for i in range(6, 9):
        wanted += [("before", i, False), *step, ("after", i)]
    assert module.calls == [*wanted, ("end", "retrain")]
    assert len(made) == 2


def test_a_fresh_stage_begins_with_the_models_initial_weights():
    module, model = Staged(), ctr_models.DLRM(3, 2, (4,))
    module.stages = lambda: (enn.Stage("search"), enn.Stage("retrain"), enn.Stage("retrain", fresh=True))
    seen = [model.top[-1].bias.detach().clone()]
    module.begin_stage = lambda name, steps: seen.append(model.top[-1].bias.detach().clone())
    train.Loop(module, model, clicks(), lambda p: torch.optim.SGD(p, 0.1), batch=8000, epochs=1).run()
    assert torch.equal(seen[1], seen[0]) and not torch.equal(seen[2], seen[0]) and torch.equal(seen[3], seen[0])


def test_stages_that_validation_does_not_end_have_a_length_of_their_own():
    module, told = Staged(), {}
    module.stages = lambda: (enn.Stage("search"), enn.Stage("retrain"))
    module.begin_stage = lambda name, steps: told.setdefault(name, steps)
    model = ctr_models.DLRM(3, 2, (4,))
    loop = train.Loop(
        module, model, clicks(), lambda p: torch.optim.SGD(p, 1e-9), batch=8000, epochs=3, patience=3, stage_epochs=2
    )
    assert loop.run().epochs == {"search": 2, "retrain": 3}
    assert told["search"] == 2 * -(-len(clicks().train) // 8000)


def test_the_model_does_not_learn_from_validation_data():
    module, model = Staged(), ctr_models.DLRM(3, 2, (4,))
    before = [p.detach().clone() for p in model.parameters()]
    loop = train.Loop(module, model, clicks(), lambda p: torch.optim.SGD(p, 0.1), batch=8000, epochs=1)
    optimizer = torch.optim.SGD([*module.parameters(), *model.parameters()], 0.1)
    batch = (torch.from_numpy(clicks().fields[:100]), torch.from_numpy(clicks().labels[:100]))
    loop._train_on(batch, optimizer, validation=True)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert module.weight.grad is not None
    loop._train_on(batch, optimizer, validation=False)
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class Scored(Staged):
    """A module of one stage that asks for scores."""

    def stages(self):
        return (enn.Stage("evolve", needs="scores"),)

    def candidates(self):
        for shift in (0, 1):
            with torch.no_grad():
                self.weight.fill_(shift)
            yield shift

    def score(self, candidate, value):
        assert not self.training and (self.weight == candidate).all()
        self.calls.append((candidate, value))


def test_the_loop_scores_candidates(monkeypatch):
    data, values = clicks(), iter([0.7, 0.6, 0.5, 0.5])
    monkeypatch.setattr(train, "auc", lambda labels, logits: next(values))
    module = Scored()
    loop = train.Loop(module, ctr_models.DLRM(3, 2, (4,)), data, lambda p: pytest.fail("no step"), batch=8000, epochs=1)
    assert loop.run().epochs == {"evolve": 0}
    assert module.calls == [("begin", "evolve", 3), (0, 0.7), (1, 0.6), ("end", "evolve")]


def test_early_stopping_gives_back_the_best_epoch(monkeypatch):
    data = clicks()
    found = iter([0.6, 0.7, 0.65, 0.64, 0.1, 0.1])
    monkeypatch.setattr(train, "auc", lambda labels, logits: next(found))
    module = enn.embedding("float32", embedding_dim=4, field_sizes=data.field_sizes)
    seen = []
    end = module.end_of_stage
    before = module.before_step

    def before_step(step, validation=False):
        if step % 3 == 0:
            seen.append(module.fields[0].weight.detach().clone())
        before(step, validation)

    module.before_step = before_step
    module.end_of_stage = lambda name: (seen.append(module.fields[0].weight.detach().clone()), end(name))
    loop = train.Loop(
        module, ctr_models.DLRM(3, 4, (4,)), data, lambda p: torch.optim.Adam(p, 0.01), batch=8000, epochs=9
    )
    assert loop.run().epochs == {"train": 4}
    # The weights at the end of the stage are those that epoch 3 began with: epoch 2 was the best.
    assert torch.equal(seen[-1], seen[2]) and not torch.equal(seen[-1], seen[3])
    assert np.isfinite(seen[-1].numpy()).all()
