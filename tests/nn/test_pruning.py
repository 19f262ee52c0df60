"""What deeplight, pep, autosrh and dnis have in common: the budget, one mask over all fields, export, resuming."""

import copy

import numpy as np
import pytest

from embstore import errors
from embstore.format import layout

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")
from embstore.nn._pruning import largest  # noqa: E402
from tests.nn.pruning import DIM, N, check_export, learn, make, target  # noqa: E402

NAMES = ("deeplight", "pep", "autosrh", "dnis")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("budget", "config"),
    [
        (0.5, {}),
        (0.2, {}),
        ("10bpd", {"values": "int8", "index": "bitmap"}),
        (0.9, {"values": "float32"}),
        (0.3, {"index": "columns"}),
    ],
)
def test_a_budget_is_met(name, budget, config, tmp_path):
    module = make(name, budget=budget, **config)
    learn(module, target(), 30)
    rows = check_export(module, tmp_path / "t")
    limit = budget * 4 * DIM * N if isinstance(budget, float) else 10 * DIM * N / 8
    assert 0.95 * limit < module.nbytes_inference() <= limit
    assert int(module.mask.sum()) == module.kept >= (rows != 0).sum() > 0.9 * module.kept


@pytest.mark.parametrize("name", NAMES)
def test_the_floor_of_budgets(name):
    with pytest.raises(errors.BudgetError, match=r"needs at least 8 bytes"):
        make(name, budget=7)
    assert make(name, budget=8).kept == 1


@pytest.mark.parametrize("name", NAMES)
def test_one_mask_over_all_fields(name, tmp_path):
    sizes = (40, 5, 255)
    module = enn.embedding(
        name, embedding_dim=DIM, field_sizes=sizes, budget=0.3, counts=np.arange(N) % 7, **UNCHANGED.get(name, {})
    )
    (one,) = module.fields
    with torch.no_grad():
        one.weight[:40] = 5
        one.weight[40:45] = 0
    finish(module)
    assert one.mask[:40].all() and not one.mask[40:45].any() and 0 < one.mask[45:].sum() < 255 * DIM
    tables = list(module.eval().export(tmp_path / "fields").values())
    assert [t.num_embeddings for t in tables] == list(sizes)
    assert sum(t.nbytes for t in tables) == module.nbytes_inference() <= 0.3 * 4 * DIM * N
    ids = torch.stack([torch.arange(60) % n for n in sizes], dim=1)
    with torch.no_grad():
        rows = module(ids).numpy()
    assert rows.shape == (60, 3, DIM)
    for i, table in enumerate(tables):
        assert table.lookup(ids[:, i].numpy()).tobytes() == rows[:, i].tobytes()
        assert table.verify() == []


# So that the mask is that of the weights a test has set: no training takes place.
UNCHANGED = {"pep": {"rewind": False}}


def finish(module):
    for stage in module.stages():
        module.end_of_stage(stage.name)


@pytest.mark.parametrize("name", NAMES)
def test_ids_stay_in_their_fields(name):
    module = enn.embedding(name, embedding_dim=4, field_sizes=(3, 9), counts=np.ones(12))
    with pytest.raises(errors.IdRangeError, match="0 to 2, found 3"):
        module(torch.tensor([[3, 0]]))
    with pytest.raises(errors.IdTypeError):
        module(torch.zeros(1, 2))
    with pytest.raises(errors.ShapeError, match=r"\(batch, 2\), found \(5, 3\)"):
        module(torch.zeros(5, 3, dtype=torch.int64))
    assert module(torch.tensor([[2, 8]], dtype=torch.int8)).shape == (1, 2, 4)
    with pytest.raises(errors.ConfigError, match="add up to 12 rows, found 11"):
        enn.embedding(name, 12, 4, counts=np.ones(12), fields=(3, 8))


@pytest.mark.parametrize("name", NAMES)
def test_fields_begin_as_full_ones_do(name):
    module = enn.embedding(name, embedding_dim=16, field_sizes=(4, 400), counts=np.ones(404))
    small, large = module.fields[0].weight.detach().abs().split((4, 400))
    assert 0.4 < small.max() <= 0.5 and 0.045 < large.max() <= 0.05


@pytest.mark.parametrize("name", NAMES)
def test_half_done_stages_are_not_exported(name, tmp_path):
    module = make(name)
    for stage in module.stages():
        if stage.name == module.prunes:
            break
        module.end_of_stage(stage.name)
    with pytest.raises(errors.ConfigError, match=rf"after its stage '{module.prunes}'"):
        module.export(tmp_path / "t")
    with pytest.raises(errors.ConfigError, match=rf"must be '{module.prunes}', found 'foo'"):
        module.end_of_stage("foo")
    module.end_of_stage(module.prunes)
    check_export(module, tmp_path / "t")
    finish_rest = [s.name for s in module.stages()][[s.name for s in module.stages()].index(module.prunes) + 1 :]
    for stage in finish_rest:
        module.end_of_stage(stage)
    mask = module.mask.clone()
    with torch.no_grad():
        module.weight.neg_().exp_()
    module.end_of_stage(module.prunes)  # a training that goes on keeps the mask
    assert torch.equal(module.mask, mask)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_resumes(name):
    """The state holds the stage, the step and the schedule, so a half-done training goes on as if uninterrupted."""

    def steps(module, first, last):
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 50.0)
        for step in range(first, last):
            stage = module.stages()[min(step // 20, len(module.stages()) - 1)]
            if step % 20 == 0:
                module.begin_stage(stage.name, 20)
            module.before_step(step, stage.needs == "validation" and step % 2 == 0)
            optimizer.zero_grad()
            (module(torch.arange(N)) - target()).square().mean().backward()
            optimizer.step()
            module.after_step(step)
            if step % 20 == 19:
                module.end_of_stage(stage.name)

    whole, begun, resumed = make(name, every=3) if name in ("deeplight", "pep") else make(name), None, None
    begun = copy.deepcopy(whole)
    end = 20 * len(whole.stages())
    steps(whole, 0, end)
    steps(begun, 0, 13)
    resumed = make(name, seed=7, **({"every": 3} if name in ("deeplight", "pep") else {}))
    resumed.load_state_dict(begun.state_dict())
    steps(resumed, 13, end)
    assert whole.pruned and resumed.pruned
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_moments_bring_no_pruned_weight_back(name):
    module = make(name, budget=0.3)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for step in range(40):
        if step == 20:
            finish(module)
        optimizer.zero_grad()
        (module(torch.arange(N)) - target()).square().mean().backward()
        optimizer.step()
    rows = module(torch.arange(N))
    assert (rows[~module.mask] == 0).all() and (rows[module.mask] != 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_several_shards(name, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SHARD_BYTES", 256)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 64)
    monkeypatch.setattr(layout, "MIN_CHUNK_BYTES", 1)
    module = make(name, budget=0.3)
    finish(module)
    check_export(module, tmp_path / "t")
    assert len(list((tmp_path / "t" / "mask" / "c").rglob("*"))) > 2


@pytest.mark.parametrize("name", NAMES)
def test_values_beyond_float16(name, tmp_path):
    module = make(name, **UNCHANGED.get(name, {}))
    with torch.no_grad():
        module.weight[11, 3] = 1e5
    finish(module)
    with pytest.raises(errors.ConfigError, match=r"at most 65504, found 100000 in row 11; use values='float32'"):
        module.export(tmp_path / "t")


@pytest.mark.parametrize("name", NAMES)
def test_int8_rows_of_zeros_and_of_tiny_values(name, tmp_path):
    module = make(name, values="int8", density=0.6, **UNCHANGED.get(name, {}))
    with torch.no_grad():
        module.weight[:100] = 0
        module.weight[100:110] = 1e-7
        module.weight[110:120] *= 1e-4
    finish(module)
    check_export(module, tmp_path / "t")


def test_the_largest():
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[1.0, 2.0, 2.0], [2.0, nan, inf]])
    for kept, want in enumerate([[], [4], [4, 5], [1, 4, 5], [1, 2, 4, 5], [1, 2, 3, 4, 5], range(6), range(6)]):
        assert largest(scores, kept).flatten().nonzero()[:, 0].tolist() == list(want)
