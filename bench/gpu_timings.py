"""Kernels, searches and tables kept in part on a device, timed there by `bench/gpu_check.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

DIM, LENGTH = 128, 32
# Configurations whose bags and lookups are timed; pq has 32 codes of 8 bits.
TIMED: list[tuple[str, dict[str, Any]]] = [
    ("float32", {}),
    ("float16", {}),
    ("bfloat16", {}),
    ("int16", {}),
    ("int8", {}),
    ("int8", {"symmetric": True}),
    ("int4", {}),
    ("int4", {"block_size": 64}),
    ("int2", {"block_size": 64}),
    ("nf4", {}),
    ("dynamic8", {}),
    ("pq", {}),
]
GOAL = 0.8  # of the copy bandwidth, for float16, int8, int4, nf4 and pq
AIMED = ("float16", "int8", "int4", "nf4", "pq")


class Clock:
    """Events, arrays and random ids of CuPy or PyTorch, whichever is there; CuPy first."""

    def __init__(self) -> None:
        try:
            import cupy

            self.cupy: Any = cupy
            self.torch: Any = None
            cupy.cuda.Device(0).use()
        except ImportError:
            import torch

            self.cupy, self.torch = None, torch

    def ids(self, n: int, below: int, seed: int) -> Any:
        if self.cupy is not None:
            self.cupy.random.seed(seed)
            return self.cupy.random.randint(0, below, n, dtype=self.cupy.int64)
        self.torch.manual_seed(seed)
        return self.torch.randint(0, below, (n,), device="cuda")

    def skewed(self, n: int, below: int, seed: int) -> Any:
        """Random ids of which a tenth of all rows takes more than half: the small ones."""
        if self.cupy is not None:
            self.cupy.random.seed(seed)
            return (self.cupy.random.rand(n) ** 4 * below).astype(self.cupy.int64)
        self.torch.manual_seed(seed)
        return (self.torch.rand(n, device="cuda", dtype=self.torch.float64) ** 4 * below).long()

    def normal(self, shape: tuple[int, ...], seed: int) -> Any:
        if self.cupy is not None:
            self.cupy.random.seed(seed)
            return self.cupy.random.standard_normal(shape, dtype=self.cupy.float32)
        self.torch.manual_seed(seed)
        return self.torch.randn(shape, device="cuda")

    def rows(self, shape: tuple[int, ...], seed: int) -> Any:
        """Normal values on the device."""
        return self.normal(shape, seed)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        if self.cupy is not None:
            return self.cupy.empty(shape, dtype)
        return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device="cuda")

    def seconds(self, calls: list[Callable[[], Any]], repeats: int) -> float:
        """Median seconds of a call, each given in turn so that none finds its data in the cache."""
        for call in calls:
            call()
        times = []
        for i in range(repeats):
            begin, end = self._event(), self._event()
            begin.record()
            calls[i % len(calls)]()
            end.record()
            end.synchronize()
            elapsed = begin.elapsed_time(end) if self.cupy is None else self.cupy.cuda.get_elapsed_time(begin, end)
            times.append(elapsed / 1e3)
        return sorted(times)[len(times) // 2]

    def _event(self) -> Any:
        return self.cupy.cuda.Event() if self.cupy is not None else self.torch.cuda.Event(enable_timing=True)

    def copy_bandwidth(self, nbytes: int) -> float:
        """Bytes read and written a second by the device's own copies."""
        a, b = self.empty((nbytes // 4,), "float32"), self.empty((nbytes // 4,), "float32")
        if self.cupy is not None:
            a[...] = self.cupy.random.rand(1 << 20, dtype=self.cupy.float32).repeat(nbytes // 4 >> 20)
            copy = [lambda: b.data.copy_from_device_async(a.data, a.nbytes, self.cupy.cuda.get_current_stream())]
        else:
            a.uniform_()
            copy = [lambda: b.copy_(a)]
        return 2 * a.nbytes / self.seconds(copy, 20)


def row_sizes(name: str, config: dict[str, Any]) -> list[int]:
    """Bytes of a row of each array that has rows."""
    from embstore import registry
    from embstore.arrays import TableShape

    shape = TableShape(1, DIM)
    layout = registry.get(name)(**config).resolve(shape).layout(shape)
    return [spec.row_nbytes for spec in layout if spec.partition == "rows"]


def big_table(name: str, config: dict[str, Any], rows: int) -> Any:
    """A table of random rows: some thousands, encoded and drawn from anew for two shards that others repeat."""
    import numpy as np
    from in_memory import table_of
    from pair import encoded

    from embstore import registry
    from embstore.arrays import Arrays, TableShape

    small = TableShape(1 << 12, DIM)
    arrays, shared = encoded(registry.get(name)(**config).resolve(small), small, 1)
    rng, most = np.random.default_rng(2), 1 << 20
    order = [rng.integers(0, small.num_embeddings, min(most, rows)) for _ in range(2)]
    parts = [{k: np.ascontiguousarray(v[o]) for k, v in arrays.items()} for o in order]
    starts = range(0, rows, most)
    shards = [Arrays({k: v[: rows - s] for k, v in parts[s // most % 2].items()}, s) for s in starts]
    shape = TableShape(rows, DIM)
    return table_of(registry.get(name)(**config).resolve(shape), shape, shards, most, shared)


def sectors(row_bytes: int) -> float:
    """Bytes that memory moves for a row of an array, in sectors of 32: the mean over where rows begin."""
    step = math.gcd(row_bytes, 32)
    begins = range(0, 32, step)
    return sum(-(-(begin + row_bytes) // 32) * 32 for begin in begins) / len(begins)


def timings(quick: bool, bandwidth: float, clock: Clock) -> Iterator[dict[str, Any]]:
    nbytes = (256 << 20) if quick else (4 << 30)
    lookups, bags, repeats = (1 << 17, 1 << 13, 10) if quick else (1 << 20, 1 << 16, 30)
    for name, config in TIMED:
        sizes = row_sizes(name, config)
        row_bytes, in_sectors = sum(sizes), sum(sectors(size) for size in sizes)
        table = big_table(name, config, nbytes // row_bytes)
        with table.to("cuda") as gpu:
            n = table.num_embeddings
            for what, count, out_rows, dtype in (
                ("lookup", lookups, lookups, "float32"),
                ("lookup", lookups, lookups, "float16"),
                ("bag", bags * LENGTH, bags, "float32"),
            ):
                sets = [clock.ids(count, n, seed) for seed in range(3)]
                out = clock.empty((out_rows, DIM), dtype)
                if what == "bag":
                    sets = [ids.reshape(bags, LENGTH) for ids in sets]
                    calls = [lambda ids=ids, out=out: gpu.bag(ids, out=out) for ids in sets]
                else:
                    calls = [lambda ids=ids, out=out: gpu.lookup(ids, out=out) for ids in sets]
                seconds = clock.seconds(calls, repeats)
                width = 4 if dtype == "float32" else 2
                fixed = count * 8 + out_rows * DIM * width
                moved = fixed + count * row_bytes
                yield {
                    "method": name, "config": config, "what": what, "out": dtype, "rows": n, "ids": count,
                    "table_bytes": n * row_bytes, "seconds": seconds, "bytes": moved,
                    "bytes_in_sectors": fixed + count * in_sectors, "ids_per_second": count / seconds,
                    "bytes_per_second": moved / seconds, "of_copy": moved / seconds / bandwidth,
                    "of_copy_in_sectors": (fixed + count * in_sectors) / seconds / bandwidth,
                }  # fmt: skip
            gpu.synchronize()


def beside_torch(quick: bool, clock: Clock) -> dict[str, Any] | None:
    """int8 bags and PyTorch's of float32 and float16 weights, on the same ids; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    rows, bags, repeats = (1 << 19, 1 << 13, 10) if quick else (1 << 24, 1 << 16, 30)
    table, n = big_table("int8", {}, rows), rows
    sets = [torch.randint(0, n, (bags, LENGTH), device="cuda") for _ in range(3)]
    found: dict[str, Any] = {"rows": n, "bags": bags, "length": LENGTH}
    timer = of_torch(torch)
    with table.to("cuda") as gpu:
        out = torch.empty((bags, DIM), device="cuda")
        found["int8"] = timer.seconds([lambda ids=ids: gpu.bag(ids, out=out) for ids in sets], repeats)
    pool = torch.nn.functional.embedding_bag
    for name in ("float32", "float16"):
        weight = torch.randn((n, DIM), device="cuda").to(getattr(torch, name))
        found[name] = timer.seconds([lambda ids=ids, w=weight: pool(ids, w, mode="sum") for ids in sets], repeats)
        found[f"times_{name}"] = found[name] / found["int8"]
        del weight
    return found


def caches(quick: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """Lookups of skewed ids from tables of which a part is on the device, the rest in memory of the host."""
    nbytes, count, repeats = (256 << 20, 1 << 15, 10) if quick else (8 << 30, 1 << 18, 20)
    for name in ("float32", "int8", "pq"):
        row_bytes = sum(row_sizes(name, {}))
        table = big_table(name, {}, nbytes // row_bytes)
        for share in (0.0, 0.1, 0.5, 1.0):
            # 2 bits a row are the map, and 4 bytes a row count ids.
            room = int(table.num_embeddings * (4.25 + share * row_bytes)) + 4096 if share < 1 else None
            with table.to("cuda", cache_bytes=room) as gpu:
                sets = [clock.skewed(count, table.num_embeddings, seed) for seed in range(3)]
                out = clock.empty((count, DIM), "float32")
                seconds = clock.seconds(
                    [lambda ids=ids, gpu=gpu, out=out: gpu.lookup(ids, out=out) for ids in sets], repeats
                )
                found = gpu.report()
            yield {
                "method": name, "rows": table.num_embeddings, "row_bytes": row_bytes, "ids": count, "share": share,
                "hit_rate": found.hit_rate, "device_bytes": found.device_nbytes, "host_bytes": found.host_nbytes,
                "seconds": seconds, "ids_per_second": count / seconds,
            }  # fmt: skip


def split_tables(quick: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """Lookups and searches of tables shared out to every device, or to one as if it were two."""
    from embstore.cuda.driver import extension

    rows, count = (1 << 18, 1 << 15) if quick else (8 << 20, 1 << 18)
    devices = list(range(int(extension().found()["devices"])))
    table = big_table("int8", {}, rows)
    rows = table.num_embeddings
    for given in ([0], [0, 0], *([devices] if len(devices) > 1 else [])):
        with table.to(given) as gpu:
            sets = [clock.ids(count, rows, seed) for seed in range(3)]
            queries = [clock.normal((100, DIM), seed) for seed in range(3)]
            out = clock.empty((count, DIM), "float32")
            looked = clock.seconds([lambda ids=ids, gpu=gpu, out=out: gpu.lookup(ids, out=out) for ids in sets], 10)
            searched = clock.seconds([lambda q=q, gpu=gpu: gpu.search(q, 10, "ip") for q in queries], 5)
        yield {"devices": given, "rows": rows, "ids": count, "lookup_seconds": looked, "search_seconds": searched}


def searches(quick: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """Exact searches of batches of 100 queries; beside PyTorch's matmul and topk in float16 where PyTorch is."""
    rows, queries, k = (1 << 18 if quick else 10 << 20), 100, 10
    for name, config in (
        ("float16", {}), ("int8", {}), ("int4", {}), ("pq", {}), ("pq", {"m": 16}), ("rabitq", {}), ("binary", {}),
    ):  # fmt: skip
        with big_table(name, config, rows).to("cuda") as gpu:
            sets = [clock.normal((queries, DIM), seed) for seed in range(3)]
            label = name + "".join(f" {field}={value}" for field, value in config.items())
            # Where codes are scored as they are, both ways.
            bound = gpu._open.bound
            for exact in (False, True) if bound.coded_block() or bound.table_entries() else (True,):
                calls = [lambda q=q, gpu=gpu, exact=exact: gpu.search(q, k, "ip", exact=exact) for q in sets]
                yield {
                    "method": label + ("" if exact else ", in integers"),
                    "rows": rows, "queries": queries, "k": k, "seconds": clock.seconds(calls, 5 if quick else 15),
                    "bytes": rows * sum(row_sizes(name, config)),
                }  # fmt: skip
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    timer = of_torch(torch)
    weight = torch.randn((rows, DIM), device="cuda").half()
    given = [torch.randn((queries, DIM), device="cuda").half() for _ in range(3)]
    seconds = timer.seconds([lambda q=q: torch.topk(q @ weight.T, k, dim=1) for q in given], 5 if quick else 15)
    yield {
        "method": "torch matmul + topk, float16", "rows": rows, "queries": queries, "k": k, "seconds": seconds,
        "bytes": rows * DIM * 2,
    }  # fmt: skip


def of_torch(torch: Any) -> Clock:
    """A clock of PyTorch's events, whatever else there is."""
    timer = Clock.__new__(Clock)
    timer.cupy, timer.torch = None, torch
    return timer
