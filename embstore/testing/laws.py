"""One function per law; `check_method` runs those that need no files."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import kernels
from ..arrays import Arrays, TableShape, check
from ..method import Configured, FloatRows, Linear, Named, RowMethod, nbytes
from ..methods._trained import TrainedMethod

F32 = npt.NDArray[np.float32]


class MemoryRows:
    """Rows in memory, and how often each is used, as `fit` sees a source."""

    def __init__(self, rows: FloatRows, counts: npt.NDArray[np.float64] | None = None) -> None:
        self._rows, self.counts = rows, counts

    @property
    def shape(self) -> TableShape:
        return TableShape(*self._rows.shape)

    def blocks(self) -> Iterator[FloatRows]:
        for start in range(0, len(self._rows), 100):
            yield self._rows[start : start + 100]

    def sample(self, max_rows: int, rng: np.random.Generator) -> FloatRows:
        if len(self._rows) <= max_rows:
            return self._rows
        return self._rows[np.sort(rng.choice(len(self._rows), max_rows, replace=False))]


def make_rows(n: int, dim: int, seed: int = 0, hostile: bool = True) -> F32:
    """Rows of very different magnitude; with `hostile` also zero, constant, tiny, NaN and infinite ones."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dim), dtype=np.float32) * rng.lognormal(sigma=2.0, size=(n, 1)).astype(np.float32)
    if hostile:
        odd = [0.0, 1.2345, 1e-9, 1e-40, -5.0, 3e4]
        for i, value in enumerate(odd[:n]):
            rows[i] = value
        for i, value in enumerate((np.nan, np.inf, -np.inf)):
            if n > len(odd) + i:
                rows[len(odd) + i, (i * 7) % dim] = value
    return rows


def make_counts(n: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Counts of a Zipf law in no order, with ties and zeros at its end."""
    ranks = np.random.default_rng(seed).permutation(n)
    return np.floor(2 * n / (1.0 + ranks))


def pooled(rows: F32, offsets: Any, mode: str, weights: F32 | None = None) -> F32:
    """Bags by lookup and a plain loop: rows added in order, in float32."""
    out = np.zeros((len(offsets) - 1, rows.shape[1]), np.float32)
    for b, (first, last) in enumerate(itertools.pairwise(offsets)):
        part = rows[first:last] if weights is None else rows[first:last] * weights[first:last, None]
        if last == first:
            continue
        if mode == "max":
            out[b] = part.max(axis=0)
            continue
        for row in part:
            out[b] += row
        if mode == "mean" and last - first > 1:
            out[b] /= np.float32(last - first)
    return out


def same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Equal bit for bit, any NaN standing for any other."""
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f")) and a.dtype == b.dtype


def stored(shared: Named) -> Named:
    """What of `fit` is stored: not what only `encode` needs."""
    return {name: array for name, array in shared.items() if not name.startswith("_")}


def config_survives(method: Configured) -> None:
    """JSON and `repr` both give the method back."""
    cls = type(method)
    assert cls.from_config(json.loads(json.dumps(method.config()))) == method
    scope = vars(importlib.import_module(cls.__module__))
    assert eval(repr(method), dict(scope)) == method


def check_method(method: RowMethod, rows: int = 257, dim: int = 64, seed: int = 0) -> None:
    """Hold one configuration of a method to the laws; an `AssertionError` says which broke."""
    config_survives(method)
    data = make_rows(rows, dim, seed)
    shape = TableShape(rows, dim)
    resolved = method.resolve(shape)
    assert resolved.resolve(shape) == resolved, "resolve is idempotent"
    config_survives(resolved)
    source = MemoryRows(data, make_counts(rows, seed))
    shared = resolved.fit(source, np.random.default_rng(seed))
    again = resolved.fit(source, np.random.default_rng(seed))
    assert all(same(shared[k], again[k]) for k in shared), "the same seed fits the same arrays"
    specs = resolved.layout(shape)
    check(specs, stored(shared), partition="shared")

    ids = np.arange(rows, dtype=np.int64)
    encoded = resolved.encode(shared, ids, data)
    free = check(specs, encoded, partition="rows", rows=rows) | check(specs, stored(shared), partition="shared")
    counted = sum(a.nbytes for a in (*encoded.values(), *stored(shared).values()))
    assert counted == nbytes(resolved, shape, **free), "layout counts all"
    for threads in (1, 2):
        native = _encode(resolved, shared, data, threads)
        assert all(native[k].tobytes() == encoded[k].tobytes() for k in encoded), "native encode = reference"
    parts = [resolved.encode(shared, ids[s], data[s]) for s in (slice(0, rows // 3), slice(rows // 3, rows))]
    for spec in specs:
        if spec.starts:
            parts[1][spec.starts] = parts[1][spec.starts] + parts[1][spec.starts].dtype.type(len(parts[0][spec.name]))
    for name in encoded:
        assert np.concatenate([p[name] for p in parts]).tobytes() == encoded[name].tobytes(), "encode is by row"

    ragged = {spec.name: encoded.pop(spec.name) for spec in specs if spec.partition == "ragged"}
    _check_reading(resolved, shape, stored(shared) | ragged, encoded, seed)


def check_trained(method: TrainedMethod, rows: int = 257, dim: int = 64, seed: int = 0) -> None:
    """`check_method` for a method that is trained: arrays are its `example`."""
    config_survives(method)
    shape = TableShape(rows, dim)
    resolved = method.resolve(shape)
    assert resolved.resolve(shape) == resolved, "resolve is idempotent"
    config_survives(resolved)
    specs = resolved.layout(shape)
    arrays = resolved.example(shape, np.random.default_rng(seed))
    shared = {s.name: arrays.pop(s.name) for s in specs if s.partition == "shared"}
    free = check(specs, arrays, partition="rows", rows=rows) | check(specs, shared, partition="shared")
    counted = sum(a.nbytes for a in (*arrays.values(), *shared.values()))
    assert counted == nbytes(resolved, shape, **free), "layout counts all"
    _check_reading(resolved, shape, shared, arrays, seed)


def _pooled_codes(
    method: Linear, arrays: Arrays, ids: Any, offsets: Any, mode: str, weights: F32 | None, want: F32
) -> F32:
    """Bags as a linear method makes them, which must be `want`, pooled rows, but for rounding."""
    bags = method.expand(arrays, pooled(method.codes(arrays, ids), offsets, mode, weights))
    sizes = np.diff(offsets)
    bags[sizes == 0] = 0
    # Rows' own rounding is relative to their largest value, and a bag may cancel.
    whole = method.expand(arrays, method.codes(arrays, ids))
    if weights is not None:
        whole = whole * weights[:, None]
    scale = np.array([np.abs(whole[a:b]).sum(initial=0.0) for a, b in itertools.pairwise(offsets)])[:, None]
    agree = ~(np.abs(bags - want) > 1e-4 * scale)
    assert agree.all(), f"bag ({mode}) = lookup and reduce, but for rounding"
    return bags


def _encode(method: RowMethod, shared: Named, data: F32, threads: int) -> Named:
    before = kernels.get_num_threads()
    kernels.set_num_threads(threads)
    try:
        return kernels.encoder(method)(shared, np.arange(len(data), dtype=np.int64), data)
    finally:
        kernels.set_num_threads(before)


def _check_reading(method: RowMethod, shape: TableShape, shared: Named, encoded: Named, seed: int) -> None:
    n, dim = shape.num_embeddings, shape.embedding_dim
    rng = np.random.default_rng(seed + 1)
    whole = np.empty((n, dim), np.float32)
    with np.errstate(all="ignore"):
        method.lookup(Arrays({**encoded, **shared}), np.arange(n, dtype=np.int64), whole)
        if n == 0:
            return
        ids = rng.integers(0, n, 3 * n + 1)
        offsets = np.sort(np.concatenate([[0, 0], rng.integers(0, len(ids), 5), [len(ids)]])).astype(np.int64)
        weights = rng.standard_normal(len(ids), dtype=np.float32)
        per_shard = 1 << max(0, (n - 1).bit_length() - 1)
        shards = [Arrays({k: v[s : s + per_shard] for k, v in encoded.items()}, s) for s in range(0, n, per_shard)]
        for backend in ("numpy", None):
            for size, parts in ((1 << 40, [Arrays(encoded)]), (per_shard, shards)):
                bound, _ = kernels.bind(method, shape, size, parts, shared, backend)
                own = whole
                if method.native_tolerance:
                    own = np.empty((n, dim), np.float32)
                    bound.lookup(np.arange(n, dtype=np.int64), own, 1)
                    far = np.abs(own - whole).max() / np.abs(whole).max()
                    assert far <= method.native_tolerance, f"lookup ({backend}) is within the bound of the reference"
                out = np.empty((len(ids), dim), np.float32)
                assert bound.lookup(ids, out, 2) == -1
                assert same(out, own[ids]), f"lookup ({backend}) = reference, in any order, over any shards"
                half = np.empty((len(ids), dim), np.uint16)
                bound.lookup_half(ids, half, 1)
                assert same(half.view(np.float16), own[ids].astype(np.float16)), "half output is the rounded float"
                for mode, w in (("sum", None), ("sum", weights), ("mean", None), ("max", None)):
                    bags = np.empty((len(offsets) - 1, dim), np.float32)
                    assert bound.bag(ids, offsets, w, kernels.BAG_MODES.index(mode), bags, 2) == -1
                    want = pooled(out, offsets, mode, w)
                    if isinstance(method, Linear) and mode != "max":
                        want = _pooled_codes(method, Arrays({**encoded, **shared}), ids, offsets, mode, w, want)
                    assert same(bags, want), f"bag ({backend}, {mode}) = lookup and reduce"
                for bad in (-1, n, 2**62, -(2**63)):
                    assert bound.lookup(np.array([0, bad]), np.empty((2, dim), np.float32), 1) == 1
