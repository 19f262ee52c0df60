"""Every CUDA functor, compiled for the host and run by the same skeletons, has the bits of the native kernels."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

from embstore import errors, kernels, native, registry
from embstore.arrays import Arrays, TableShape
from embstore.cuda import driver
from embstore.cuda.placed import Placed, fault_bytes
from embstore.method import RowMethod
from embstore.methods._trained import TrainedMethod
from embstore.testing import make_counts, make_rows
from embstore.testing.laws import MemoryRows, same, stored

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver


def configurations() -> list[RowMethod]:
    """Those the laws vary: of methods that are fitted, and of trained ones where torch is."""
    found: list[RowMethod] = list(importlib.import_module("test_laws").ALL)
    found += [registry.get(name)() for name in registry.trained()]
    if importlib.util.find_spec("torch") is not None:
        modules = importlib.import_module("test_nn_laws")
        given = [(name, [*modules.CONFIGS.get(name, ()), *modules.STORED.get(name, ())]) for name in registry.trained()]
        found += [registry.get(name)(**config) for name, configs in given for config in configs]
    return [m for m in found if m.id in WITH_KERNEL]


WITH_KERNEL = driver.extension().methods()
CONFIGURED = configurations()
MODES: list[tuple[str, bool]] = [("sum", False), ("sum", True), ("mean", False), ("max", False)]


class Pair:
    """One table, served by the native kernels and by those for CUDA on the host."""

    def __init__(self, method: RowMethod, rows: int, dim: int, seed: int = 0) -> None:
        self.shape = TableShape(rows, dim)
        self.method = method.resolve(self.shape)
        rng = np.random.default_rng(seed)
        specs = self.method.layout(self.shape)
        if isinstance(self.method, TrainedMethod):
            arrays = self.method.example(self.shape, rng)
            self._bind({s.name: arrays.pop(s.name) for s in specs if s.partition == "rows"}, arrays)
            return
        data = make_rows(rows, dim, seed)
        with np.errstate(all="ignore"):
            shared = self.method.fit(MemoryRows(data, make_counts(rows, seed)), rng)
            encoded = self.method.encode(shared, np.arange(rows, dtype=np.int64), data)
        ragged = {s.name: encoded.pop(s.name) for s in specs if s.partition == "ragged"}
        self._bind(encoded, stored(shared) | ragged)

    def _bind(self, encoded: Any, shared: Any) -> None:
        n = self.shape.num_embeddings
        per_shard = 1 << max(0, (n - 1).bit_length() - 2)
        shards = [Arrays({k: v[s : s + per_shard] for k, v in encoded.items()}, s) for s in range(0, n, per_shard)]
        self.native, choice = kernels.bind(self.method, self.shape, per_shard, shards, shared)
        assert choice.backend == "native"
        self.driver = HostDriver()
        self.placed = Placed(self.driver, 0, self.method, self.shape, shards, shared)
        self.fault = fault_bytes()

    def lookup(self, ids: Any, half: bool = False, wide: bool = True) -> Any:
        out = np.full((len(ids), self.shape.embedding_dim), 77, np.float16 if half else np.float32)
        given = np.ascontiguousarray(ids, np.int64 if wide else np.int32)
        self.placed.bound.lookup(
            given.ctypes.data, wide, len(ids), out.ctypes.data, half, self.fault.ctypes.data, 0
        )  # fmt: skip
        return out

    def native_lookup(self, ids: Any) -> Any:
        out = np.empty((len(ids), self.shape.embedding_dim), np.float32)
        assert self.native.lookup(np.asarray(ids, np.int64), out, 1) == -1
        return out

    def bag(self, ids: Any, offsets: Any, mode: str, weights: Any, half: bool = False, wide: bool = True) -> Any:
        out = np.full((len(offsets) - 1, self.shape.embedding_dim), 77, np.float16 if half else np.float32)
        dtype = np.int64 if wide else np.int32
        given, starts = np.ascontiguousarray(ids, dtype), np.ascontiguousarray(offsets, dtype)
        self.placed.bound.bag(
            given.ctypes.data, wide, len(ids), starts.ctypes.data, wide, len(starts), len(out), 0,
            0 if weights is None else weights.ctypes.data, kernels.BAG_MODES.index(mode), out.ctypes.data, half,
            self.fault.ctypes.data, 0,
        )  # fmt: skip
        return out

    def native_bag(self, ids: Any, offsets: Any, mode: str, weights: Any) -> Any:
        out = np.empty((len(offsets) - 1, self.shape.embedding_dim), np.float32)
        assert self.native.bag(ids, np.asarray(offsets, np.int64), weights, kernels.BAG_MODES.index(mode), out, 1) == -1
        return out

    def check(self, seed: int = 1) -> None:
        """Lookups and bags have the same bits, or keep to the bound of a method whose kernels sum in other orders."""
        n = self.shape.num_embeddings
        rng = np.random.default_rng(seed)
        ids = np.concatenate([[0, n - 1], rng.integers(0, n, 2 * n + 60)])
        offsets = np.sort(np.concatenate([[0, 0, len(ids), len(ids)], rng.integers(0, len(ids), 9)]))
        weights = rng.standard_normal(len(ids), dtype=np.float32)
        rows = self.native_lookup(ids)
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        self._equal(self.lookup(ids), rows)
        self._equal(self.lookup(ids, wide=False), rows)
        self._equal(self.lookup(ids, half=True), halves)
        for mode, weighted in MODES:
            given = weights if weighted else None
            bags = self.native_bag(ids, offsets, mode, given)
            self._equal(self.bag(ids, offsets, mode, given), bags)
            self._equal(self.bag(ids, offsets, mode, given, wide=False), bags)
            with np.errstate(over="ignore"):
                self._equal(self.bag(ids, offsets, mode, given, half=True), bags.astype(np.float16))
        assert self.fault.tobytes() == fault_bytes().tobytes()

    def _equal(self, found: Any, want: Any) -> None:
        if not self.method.native_tolerance:
            assert same(found, want)
            return
        scale = float(np.abs(want).max(initial=0.0))
        close = np.abs(found.astype(np.float64) - want) <= scale * max(self.method.native_tolerance, 1e-5)
        assert (close | (np.isnan(found) & np.isnan(want)) | (found == want)).all()


@pytest.mark.parametrize("method", CONFIGURED, ids=repr)
def test_every_config(method: RowMethod) -> None:
    Pair(method, 67, 50).check()


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 16, 31, 64, 97, 128, 129, 300, 1030])
@pytest.mark.parametrize("name", WITH_KERNEL)
def test_every_dim(name: str, dim: int) -> None:
    Pair(registry.get(name)(), 33, dim).check()


@pytest.mark.parametrize("name", WITH_KERNEL)
def test_rows_wider_than_a_block_has_threads_for(name: str) -> None:
    Pair(registry.get(name)(), 5, 4400).check()


@pytest.mark.parametrize(("name", "seed"), list(itertools.product(WITH_KERNEL, range(4))))
def test_any_shape(name: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *name.encode()])
    own = [m for m in CONFIGURED if m.id == name]
    for _ in range(8):
        method, rows, dim = own[rng.integers(len(own))], int(rng.integers(1, 90)), int(rng.integers(1, 200))
        try:
            pair = Pair(method, rows, dim, int(rng.integers(1 << 31)))
        except errors.ConfigError:
            continue  # three parts of a row of two values, say
        pair.check(seed)


@pytest.mark.parametrize("name", WITH_KERNEL)
@pytest.mark.parametrize("wide", [True, False])
def test_ids_out_of_range_are_skipped_and_the_first_is_told(name: str, wide: bool) -> None:
    pair = Pair(registry.get(name)(), 40, 24)
    ids = np.array([3, 40, 5, -1, 39])
    rows = pair.lookup(ids, wide=wide)
    assert same(rows[[0, 2, 4]], pair.native_lookup(ids[[0, 2, 4]]))
    assert (rows[[1, 3]] == 77).all()
    assert pair.fault.view(np.int64)[1:].tolist() == [1, 40]
    assert pair.fault.view(np.int32)[1] == 1
    pair.fault = fault_bytes()
    bags = pair.bag(ids, [0, 3, 5], "sum", None, wide=wide)
    assert same(bags, pair.native_bag(ids[[0, 2, 4]], [0, 2, 3], "sum", None))
    assert pair.fault.view(np.int64)[1:].tolist() == [1, 40]


def test_offsets_that_do_not_fit_are_told() -> None:
    pair = Pair(registry.get("int8")(), 40, 24)
    ids = np.arange(6)
    for offsets, position in (([0, 4, 2, 6], 1), ([0, 3, 7], 1), ([1, 6], 0), ([0, -2, 6], 0)):
        pair.fault = fault_bytes()
        pair.bag(ids, offsets, "sum", None)
        assert pair.fault.view(np.int32)[1] == 2
        assert pair.fault.view(np.int64)[1] == position


def test_bags_of_one_length_need_no_offsets() -> None:
    pair = Pair(registry.get("int8")(), 40, 24)
    ids = np.arange(20)
    out = np.empty((4, 24), np.float32)
    pair.placed.bound.bag(
        ids.ctypes.data, True, 20, 0, True, 0, 4, 5, 0, 0, out.ctypes.data, False, pair.fault.ctypes.data, 0
    )
    assert same(out, pair.native_bag(ids, [0, 5, 10, 15, 20], "sum", None))


def test_a_table_without_rows() -> None:
    pair = Pair(registry.get("int8")(), 1, 8)
    empty = pair.lookup(np.array([], np.int64))
    assert empty.shape == (0, 8)
    assert pair.bag(np.array([], np.int64), [0, 0, 0], "mean", None).tolist() == [[0.0] * 8] * 2


def test_the_native_kernels_are_there() -> None:
    """Without them every comparison above would be of numpy."""
    assert native.available()
    assert set(WITH_KERNEL) >= {"float32", "float16", "bfloat16", "int16", "int8", "int4", "int2", "nf4", "dynamic8"}
