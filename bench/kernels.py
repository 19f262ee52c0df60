"""Lookup and bag kernels beside numpy, PyTorch and FBGEMM, on tables larger than the last-level cache.

Bytes that must move for a lookup of dim 128: float32 reads 512 and writes 512 a row; int8 reads 132 (codes, scale
and offset) and writes 512; a bag of 32 reads the same and writes next to nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import embstore
from embstore import kernels, native, pipeline
from embstore.arrays import Arrays, TableShape

from . import timing

METHODS = ("float32", "float16", "int8", "int4", "int2", "dynamic8", "nf4")


def make_ids(kind: str, n: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if kind == "uniform":
        return rng.integers(0, n, count)
    # Zipf with exponent 1.05 over ranks, the ranks scattered over the table.
    ranks = (rng.zipf(1.05, count) - 1) % n
    return (ranks * 2654435761) % n


def peers(weight: np.ndarray, ids: np.ndarray, out: np.ndarray, threads: int) -> tuple[dict, dict]:
    """(lookups, bags of 32) of every peer that is installed."""
    lookups: dict[str, Callable[[], Any]] = {"numpy.take": lambda: np.take(weight, ids, axis=0, out=out, mode="clip")}
    bags: dict[str, Callable[[], Any]] = {}
    try:
        import torch
    except ImportError:
        return lookups, bags
    torch.set_num_threads(threads)
    w, i, o = torch.from_numpy(weight), torch.from_numpy(ids), torch.from_numpy(out)
    offsets = torch.arange(0, len(ids) + 1, 32)
    lookups["torch.index_select"] = lambda: torch.index_select(w, 0, i, out=o)
    bags["torch embedding_bag float32"] = lambda: torch.nn.functional.embedding_bag(
        i, w, offsets, mode="sum", include_last_offset=True
    )
    packed = torch.cat([torch.ops.quantized.embedding_bag_byte_prepack(part) for part in w.split(1 << 20)])
    bags["torch byte_rowwise_offsets"] = lambda: torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        packed, i, offsets, include_last_offset=True, mode=0
    )
    try:
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
    except ImportError:
        return lookups, bags
    i32, o32 = i.int(), offsets.int()
    n, dim = weight.shape

    def table(bits: Any, pooling: Any) -> Any:
        module = IntNBitTableBatchedEmbeddingBagsCodegen(
            [("", n, dim, bits, EmbeddingLocation.HOST)],
            device="cpu",
            pooling_mode=pooling,
            output_dtype=SparseType.FP32,
        )
        module.fill_random_weights()
        return module

    plain = table(SparseType.INT8, PoolingMode.NONE)
    sum8, sum4 = table(SparseType.INT8, PoolingMode.SUM), table(SparseType.INT4, PoolingMode.SUM)
    whole = torch.tensor([0, len(ids)], dtype=torch.int32)
    lookups["FBGEMM int8 unpooled"] = lambda: plain(i32, whole)
    bags["FBGEMM int8 bag"] = lambda: sum8(i32, o32)
    bags["FBGEMM int4 bag"] = lambda: sum4(i32, o32)
    return lookups, bags


def mapped(path: Path, array: np.ndarray) -> np.ndarray:
    """The array as lookups see it: a mapped file, warm in the page cache."""
    array.tofile(path)
    data = native.require("the benchmark").map_file(str(path), array.nbytes)
    path.unlink()  # the mapping keeps the pages
    return data.view(array.dtype).reshape(array.shape)


def ours(n: int, dim: int, ids: np.ndarray, out: np.ndarray, work: Path) -> tuple[dict, dict]:
    lookups, bags = {}, {}
    offsets = np.arange(0, len(ids) + 1, 32)
    pooled = np.empty((len(offsets) - 1, dim), np.float32)
    rng = np.random.default_rng(2)
    shape = TableShape(n, dim)
    for name in METHODS:
        method = pipeline.create(name).resolve(shape)
        arrays = {}
        for spec in method.layout(shape):
            if spec.name == "codes":
                arrays[spec.name] = rng.integers(0, 256, spec.sizes(), dtype=np.uint8)
            else:
                arrays[spec.name] = np.full(spec.sizes(), 0.01, spec.dtype)
            arrays[spec.name] = mapped(work / spec.name, arrays[spec.name])
        bound, _ = kernels.bind(method, shape, 1 << 40, [Arrays(arrays)], {})
        lookups[f"embstore {name}"] = lambda b=bound: b.lookup(ids, out, kernels.get_num_threads())
        bags[f"embstore {name} bag"] = lambda b=bound: b.bag(ids, offsets, None, 0, pooled, kernels.get_num_threads())
    return lookups, bags


def main(quick: bool = False, directory: str | None = None) -> None:
    with tempfile.TemporaryDirectory(prefix="embstore-bench-", dir=directory) as work:
        rows = measure(quick, Path(work))
    if not quick:
        print(timing.save("kernels", {"rows": rows}))


def measure(quick: bool, work: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    budget = (64 << 20) if quick else (2 << 30)
    count = 32 * (1000 if quick else 16_000)
    for dim in (128,) if quick else (128, 64, 300):
        n = budget // (4 * dim)
        weight = np.empty((n, dim), np.float32)
        weight[:] = np.random.default_rng(0).standard_normal((1, dim), dtype=np.float32)
        out = np.empty((count, dim), np.float32)
        for kind in ("uniform", "zipf"):
            ids = make_ids(kind, n, count)
            our_lookups, our_bags = ours(n, dim, ids, out, work)
            for threads in (1, 2):
                embstore.set_num_threads(threads)
                peer_lookups, peer_bags = peers(weight, ids, out, threads)
                for op, contenders, base in (
                    ("lookup", {**peer_lookups, **our_lookups}, "numpy.take"),
                    ("bag of 32", {**peer_bags, **our_bags}, "FBGEMM int8 bag"),
                ):
                    times = timing.rounds(contenders)
                    for name in contenders:
                        row = {
                            "op": op, "dim": dim, "ids": kind, "threads": threads, "name": name,
                            "mrows_per_s": count / timing.median(times[name]) / 1e6,
                            "over": {p: timing.ratio(times, name, p) for p in contenders if "embstore" not in p},
                        }  # fmt: skip
                        rows.append(row)
                        over = f"{row['over'][base]:6.2f} x {base}" if base in row["over"] else ""
                        print(
                            f"{op:10} {dim:4} {kind:8} {threads} {name:30} {row['mrows_per_s']:8.1f} M/s {over}",
                            flush=True,
                        )
            embstore.set_num_threads(None)
    return rows
