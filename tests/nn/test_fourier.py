"""Fourier features: the same bits everywhere, near the true sines, apart for every two ids; budgets."""

import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from embstore import errors, native
from embstore.arrays import TableShape
from embstore.method import nbytes
from embstore.methods.fourier import Fourier, features_of

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

# Features alone: weights of zero, and the residual.
BITS = """
import sys, numpy as np
from embstore import kernels
from embstore.arrays import Arrays, TableShape
from embstore.methods.fourier import Fourier
shape = TableShape(2**40, 30)
method = Fourier(width=1).resolve(shape)
arrays = {s.name: np.zeros(s.shape, s.dtype) for s in method.layout(shape)} | {"steps": method.steps(shape)}
ids = np.load(sys.argv[1])
out = np.empty((len(ids), 30), np.float32)
bound, choice = kernels.bind(method, shape, 1 << 41, [Arrays({})], arrays)
assert choice.backend == "native" and bound.lookup(ids, out, 1) == -1
np.save(sys.argv[2], out)
"""


@pytest.mark.parametrize("isa", ["", "avx2", "ref"])
def test_the_same_bits_everywhere(isa, tmp_path):
    if isa and isa not in native.require("the test").usable_isas():
        pytest.skip(f"this processor has no {isa}")
    ids = np.concatenate([[0, 1, 2**40 - 1], np.random.default_rng(0).integers(0, 2**40, 5000)])
    np.save(tmp_path / "ids.npy", ids)
    arguments = [sys.executable, "-c", BITS, str(tmp_path / "ids.npy"), str(tmp_path / "out.npy")]
    subprocess.run(arguments, env={**os.environ, "EMBSTORE_ISA": isa}, check=True, timeout=120)
    shape = TableShape(2**40, 30)
    method = Fourier(width=1).resolve(shape)
    want = features_of(method.steps(shape), ids)
    assert np.array_equal(np.load(tmp_path / "out.npy"), want)
    module = enn.embedding("fourier", 2**40, 30, width=1)
    assert np.array_equal(module.features(torch.from_numpy(ids)).numpy(), want)


@pytest.mark.parametrize("frequencies", ["linear", "geometric"])
def test_features_are_sines_and_cosines_of_the_id(frequencies):
    n = 1000
    method = Fourier(features=32, width=1, frequencies=frequencies)
    steps = method.steps(TableShape(n, 32))
    found = features_of(steps, np.arange(n))
    halves = np.arange(1, 17) if frequencies == "linear" else np.round((n / 2) ** (np.arange(16) / 15))
    angles = math.pi / n * np.outer(np.arange(n) + 0.5, halves)
    np.testing.assert_allclose(found, np.hstack([np.sin(angles), np.cos(angles)]), rtol=0, atol=1e-7)
    assert halves.max() == (16 if frequencies == "linear" else n / 2)


def test_sines_over_the_whole_turn():
    """One frequency of which 2 x + 1 goes through every phase of 20 bits, quarter turns included."""
    steps = np.array([2**44], np.uint64)
    ids = np.arange(2**19)
    exact = 2 * math.pi * (2 * ids + 1) / 2**20
    found = features_of(steps, ids)
    assert np.abs(found - np.stack([np.sin(exact), np.cos(exact)], 1)).max() < 6.1e-8  # half a unit in the last place
    quarters = features_of(np.array([2**61], np.uint64), np.arange(4)) * math.sqrt(2)
    np.testing.assert_allclose(quarters, [[1, 1], [1, -1], [-1, -1], [-1, 1]], atol=2e-7)


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 100_000])
def test_every_two_ids_differ(n):
    x = features_of(Fourier(features=16).steps(TableShape(n, 16)), np.arange(n))
    assert len(np.unique(x, axis=0)) == n
    # The first and the last id, which a whole turn of every frequency would make the same, are far apart.
    assert n < 3 or np.abs(x[0] - x[-1]).max() > 1.9


def test_geometric_frequencies_fit_rows_in_no_order():
    torch.set_num_threads(1)
    target = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    losses = {}
    for frequencies in ("linear", "geometric"):
        module = enn.embedding("fourier", 500, 8, features=32, width=32, frequencies=frequencies)
        optimizer = torch.optim.Adam(module.parameters(), 0.01)
        for _ in range(300):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(torch.arange(500)), target)
            loss.backward()
            optimizer.step()
        losses[frequencies] = loss.item()
    assert losses["geometric"] < 0.8 * losses["linear"] < 0.8


def test_rows_without_the_residual_start_with_the_spread_of_a_full_table():
    module = enn.embedding("fourier", 20_000, 16, residual=False)
    with torch.no_grad():
        std = module(torch.arange(20_000)).std().item()
    assert 0.5 < std / (1 / 20_000 / 3) ** 0.5 < 2


def test_budgets():
    shape = TableShape(100_000, 17)
    assert Fourier().resolve(shape) == Fourier(features=18, width=68)
    for ratio, features in ((0.1, 144), (0.01, 72), (0.001, 36), (0.0003, 18)):
        method = Fourier().for_budget(shape, int(shape.nbytes_float32 * ratio))
        assert method.features == features
        assert nbytes(method, shape) <= shape.nbytes_float32 * ratio
        assert nbytes(dataclasses.replace(method, width=method.width + 1), shape) > shape.nbytes_float32 * ratio
    floor = nbytes(Fourier(features=18, width=1), shape)
    with pytest.raises(errors.BudgetError, match=f"at least {floor:,} bytes"):
        Fourier().for_budget(shape, floor - 1)
    with pytest.raises(errors.BudgetError, match="a width of 500"):
        Fourier(width=500).for_budget(shape, floor)


@pytest.mark.parametrize(
    "config", [{"features": 0}, {"features": 3}, {"width": 2**17}, {"frequencies": "log"}, {"residual": 1}]
)
def test_refused(config):
    with pytest.raises(errors.ConfigError, match=next(iter(config))):
        Fourier(**config)
