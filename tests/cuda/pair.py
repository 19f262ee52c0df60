"""One table, served by the native kernels and by those for CUDA: on a device, or on the host in its place."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from embstore import kernels, registry
from embstore.arrays import Arrays, TableShape
from embstore.cuda.driver import Driver, built, extension
from embstore.cuda.placed import Placed, fault_bytes
from embstore.errors import DeviceError, MissingDependencyError
from embstore.method import Method, Named, RowMethod
from embstore.methods._trained import TrainedMethod
from embstore.pipeline import Pipeline
from embstore.testing import make_counts, make_rows
from embstore.testing.laws import MemoryRows, pooled, same, stored

# Methods with a native kernel and none on CUDA, and why: a table of theirs stays on the host.
WITHOUT_KERNEL: dict[str, str] = {}

# Configurations for wide rows, of methods whose own are slow to fit to those, or to run on the host.
_WIDE: dict[str, dict[str, Any]] = {
    "rq": {"m": 2, "bits": 2, "beam": 1},
    "mixed_dim": {"blocks": 1},
    "svd": {"rank": 3},
    "fourier": {"features": 8, "width": 4},
}

# svd refuses rows of 4,400 values, and a fit of mixed_dim takes a minute; their kernels take no account of a width.
NOT_SO_WIDE = ("svd", "mixed_dim")

MODES: list[tuple[str, bool]] = [("sum", False), ("sum", True), ("mean", False), ("max", False)]


def why_no_device() -> str | None:
    """Why nothing runs on a GPU here; None where it does."""
    if not built():
        return "embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off"
    try:
        Driver().check(0)
    except DeviceError as error:
        return str(error)
    return None


def configurations() -> list[RowMethod]:
    """Those the laws vary: of methods that are fitted, and of trained ones where torch is."""
    found: list[RowMethod] = list(importlib.import_module("test_laws").ALL)
    found += [registry.get(name)() for name in registry.trained()]
    if importlib.util.find_spec("torch") is not None:
        modules = importlib.import_module("test_nn_laws")
        given = [(name, [*modules.CONFIGS.get(name, ()), *modules.STORED.get(name, ())]) for name in registry.trained()]
        found += [registry.get(name)(**config) for name, configs in given for config in configs]
    return [m for m in found if extension().has_kernel(m.id)]


def method_for(name: str, dim: int) -> RowMethod:
    """A method as it is by default, or for wide rows one that is soon fitted."""
    return registry.get(name)(**(_WIDE.get(name, {}) if dim > 1000 else {}))


def encoded(method: Method, shape: TableShape, seed: int = 0) -> tuple[Named, Named]:
    """The rows arrays of a resolved method for random rows, and its shared and ragged ones."""
    rng = np.random.default_rng(seed)
    specs = method.layout(shape)
    if isinstance(method, TrainedMethod):
        arrays = method.example(shape, rng)
        return {s.name: arrays.pop(s.name) for s in specs if s.partition == "rows"}, arrays
    data = make_rows(shape.num_embeddings, shape.embedding_dim, seed)
    with np.errstate(all="ignore"):
        try:
            shared = method.fit(MemoryRows(data, make_counts(shape.num_embeddings, seed)), rng)
        except MissingDependencyError:  # k-means are FAISS's: random centroids decode as well
            shared = {s.name: rng.standard_normal(s.sizes()).astype(s.dtype) for s in specs if s.partition == "shared"}
        rows = method.encode(shared, np.arange(shape.num_embeddings, dtype=np.int64), data)
    ragged = {s.name: rows.pop(s.name) for s in specs if s.partition == "ragged"}
    return rows, stored(shared) | ragged


class Pair:
    """One table, served by the native kernels and by those for CUDA on the host."""

    def __init__(
        self, driver: Driver, method: Method, rows: int, dim: int, seed: int = 0, damaged: Sequence[str] = ()
    ) -> None:
        """`damaged`: arrays to fill with random bytes."""
        source, self.driver = TableShape(rows, dim), driver
        self.method = method.resolve(source)
        arrays, shared = encoded(self.method, source, seed)
        for named, name in itertools.product((arrays, shared), damaged):
            if name in named:
                named[name] = np.frombuffer(
                    np.random.default_rng(seed).bytes(named[name].nbytes), named[name].dtype
                ).reshape(named[name].shape)
        self.shape = TableShape(rows, self.method.row_dim(dim) if isinstance(self.method, Pipeline) else dim)
        per_shard = 1 << max(0, (rows - 1).bit_length() - 2)
        starts = range(0, rows, per_shard)
        shards = [Arrays({k: v[s : s + per_shard] for k, v in arrays.items()}, s) for s in starts]
        self.native, choice = kernels.bind(self.method, self.shape, per_shard, shards, shared)
        assert choice.backend == "native"
        self.reference, _ = kernels.bind(self.method, self.shape, per_shard, shards, shared, "numpy")
        # How far rows may be from the reference, relative to the table's largest magnitude; 0 is bit for bit.
        self.tolerance: float = getattr(self.method, "native_tolerance", 0.0)
        self.placed = Placed(driver, 0, self.method, self.shape, shards, shared)
        self._memory: list[int] = []
        self.clear_fault()

    def close(self) -> None:
        self.placed.close()
        while self._memory:
            self.driver.release(0, self._memory.pop())

    def put(self, array: Any) -> int:
        """The address of a copy on the device."""
        array = np.ascontiguousarray(array)
        address = self.driver.allocate(0, max(array.nbytes, 1))
        self._memory.append(address)
        self.driver.copy_in(0, address, array.reshape(-1).view(np.uint8), 0)
        return address

    def get(self, address: int, like: Any) -> Any:
        out = np.empty_like(like)
        self.driver.copy_out(0, out.reshape(-1).view(np.uint8), address, 0)
        return out

    def clear_fault(self) -> None:
        self._fault = self.put(fault_bytes())

    @property
    def fault(self) -> list[int]:
        """Kind, position and value of what was found wrong; [0, …] for nothing."""
        found = self.get(self._fault, fault_bytes())
        return [int(found.view(np.int32)[1]), *found.view(np.int64)[1:].tolist()]

    def lookup(self, ids: Any, half: bool = False, wide: bool = True) -> Any:
        poison = np.full((len(ids), self.shape.embedding_dim), 77, np.float16 if half else np.float32)
        out = self.put(poison)
        given = self.put(np.asarray(ids, np.int64 if wide else np.int32))
        self.placed.bound.lookup(given, wide, len(ids), out, half, self._fault, 0)
        return self.get(out, poison)

    def bag(
        self, ids: Any, offsets: Any, mode: str, weights: Any, half: bool = False, wide: bool = True, length: int = 0
    ) -> Any:
        """Bags by offsets with an end; or of `length` ids each, for no offsets."""
        bags = len(ids) // length if length else len(offsets) - 1
        poison = np.full((bags, self.shape.embedding_dim), 77, np.float16 if half else np.float32)
        out, dtype = self.put(poison), np.int64 if wide else np.int32
        given = self.put(np.asarray(ids, dtype))
        starts = 0 if length else self.put(np.asarray(offsets, dtype))
        self.placed.bound.bag(
            given, wide, len(ids), starts, wide, 0 if length else len(offsets), bags, length,
            0 if weights is None else self.put(weights), kernels.BAG_MODES.index(mode), out, half, self._fault, 0,
        )  # fmt: skip
        return self.get(out, poison)

    def native_lookup(self, ids: Any) -> Any:
        out = np.empty((len(ids), self.shape.embedding_dim), np.float32)
        assert self.native.lookup(np.asarray(ids, np.int64), out, 1) == -1
        return out

    def native_bag(self, ids: Any, offsets: Any, mode: str, weights: Any) -> Any:
        out = np.empty((len(offsets) - 1, self.shape.embedding_dim), np.float32)
        assert self.native.bag(ids, np.asarray(offsets, np.int64), weights, kernels.BAG_MODES.index(mode), out, 1) == -1
        return out

    def check(self, seed: int = 1) -> None:
        """Lookups and bags have the bits of the native kernels.

        Rows of a method whose kernels sum in other orders keep to its bound instead, and bags are of those rows.
        """
        n = self.shape.num_embeddings
        rng = np.random.default_rng(seed)
        ids = np.concatenate([[0, n - 1], rng.integers(0, n, 2 * n + 60)])
        offsets = np.sort(np.concatenate([[0, 0, len(ids), len(ids)], rng.integers(0, len(ids), 9)]))
        weights = rng.standard_normal(len(ids), dtype=np.float32)
        rows = self._own_rows(n)[ids] if self.tolerance else self.native_lookup(ids)
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        assert same(self.lookup(ids), rows)
        assert same(self.lookup(ids, wide=False), rows)
        assert same(self.lookup(ids, half=True), halves)
        for mode, weighted in MODES:
            given = weights if weighted else None
            bags = pooled(rows, offsets, mode, given) if self.tolerance else self.native_bag(ids, offsets, mode, given)
            assert same(self.bag(ids, offsets, mode, given), bags)
            assert same(self.bag(ids, offsets, mode, given, wide=False), bags)
            with np.errstate(over="ignore"):
                assert same(self.bag(ids, offsets, mode, given, half=True), bags.astype(np.float16))
        assert self.fault[0] == 0

    def _own_rows(self, n: int) -> Any:
        """Every row of the table, within the bound of the reference."""
        every = np.arange(n, dtype=np.int64)
        want = np.empty((n, self.shape.embedding_dim), np.float32)
        self.reference.lookup(every, want, 1)
        found = self.lookup(every)
        far = np.abs(found - want).max() / np.abs(want).max()
        assert far <= self.tolerance
        return found
