"""DeFINE: groups are block-diagonal layers with a skip from the short row; rows are cached by any method at export."""

import numpy as np
import pytest

import embstore
from embstore import errors
from embstore.arrays import TableShape
from embstore.pipeline import Pipeline

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")


def test_groups_are_block_diagonal_layers():
    module = enn.embedding("define", 20, 10, short=8, expanded=30, layers=3, groups=4).double()
    assert [tuple(w.shape) for w in module.weights] == [(4, 2, 4), (2, 12, 11), (1, 30, 30)]
    with torch.no_grad():
        for bias in module.biases:
            bias.uniform_(-1, 1)
        short = module.short[torch.arange(20)]
        hidden = short
        for i, groups in enumerate((4, 2, 1)):
            pieces = list(zip(hidden.chunk(groups, 1), short.chunk(groups, 1), strict=True))
            inputs = torch.cat([hidden] if i == 0 else [torch.cat(pair, 1) for pair in pieces], 1)
            whole = torch.block_diag(*module.weights[i])
            hidden = torch.nn.functional.gelu(inputs @ whole + module.biases[i])
        torch.testing.assert_close(module(torch.arange(20)), hidden @ module.reduction)


def test_rows_start_with_the_spread_of_a_full_table():
    for config in ({}, {"layers": 1, "groups": 1}, {"short": 64, "expanded": 128, "layers": 6}):
        module = enn.embedding("define", 20_000, 64, **config)
        with torch.no_grad():
            std = module(torch.arange(20_000)).std().item()
        assert 0.5 < std / (1 / 20_000 / 3) ** 0.5 < 2


@pytest.mark.parametrize("stored", ["float32", "int8", "svd", "pca8,int8", "pq", "pruned"])
def test_rows_are_cached_by_any_method(stored, tmp_path):
    module = enn.embedding("define", 500, 16, stored=stored, counts=np.arange(500))
    keys = [f"k{i}" for i in range(500)]
    table = module.export(tmp_path / "t", keys=keys)
    with torch.no_grad():
        rows = module(torch.arange(500)).numpy()
    embstore.compress(module.all_rows(), tmp_path / "direct", stored, counts=np.arange(500))
    assert np.array_equal(table.lookup(np.arange(500)), embstore.open(tmp_path / "direct").lookup(np.arange(500)))
    assert np.array_equal(table["k3"], table[3])
    error = np.abs(table.lookup(np.arange(500)) - rows).max() / np.abs(rows).max()
    assert error < (1e-6 if stored == "float32" else 0.02 if stored == "int8" else 1)
    assert isinstance(module.method, Pipeline) == ("," in stored)
    assert table.nbytes == module.nbytes_inference()
    for name, array in module.arrays().items():
        assert array.nbytes == 0 or name in {a["name"] for a in table.metadata["generations"][0]["arrays"]}


def test_budgets_and_fields_are_of_the_stored_method():
    shape = TableShape(1000, 32)
    module = enn.embedding("define", 1000, 32, stored="svd", budget=0.2)
    assert module.nbytes_inference() <= shape.nbytes_float32 * 0.2
    assert enn.embedding("define", 1000, 32, stored="int8", block_size=16).method.block_size == 16
    with pytest.raises(errors.BudgetError, match="float32"):
        enn.embedding("define", 1000, 32, budget=0.5)
    with pytest.raises(errors.ConfigError, match="unknown field 'nothing'"):
        enn.embedding("define", 1000, 32, nothing=1)


def test_training_takes_less_memory_than_a_full_table():
    full, short = enn.embedding("float32", 20_000, 64), enn.embedding("define", 20_000, 64)
    assert short.nbytes_training("adam") < 0.3 * full.nbytes_training("adam")


@pytest.mark.parametrize(
    "config",
    [{"layers": 0}, {"groups": 3}, {"groups": 0}, {"short": 6}, {"short": -4}, {"expanded": 2.5}],
)
def test_refused(config):
    with pytest.raises(errors.ConfigError, match=next(iter(config))):
        enn.embedding("define", 20, 16, **config)
