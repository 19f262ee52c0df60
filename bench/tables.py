"""Whole tables from files: opening, single rows, keys, cold batches, compressing."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import embstore
from embstore import pipeline
from embstore.arrays import TableShape
from embstore.format import TableWriter
from embstore.testing.sparse import sparse_table

from . import timing


def drop_cache(path: Path) -> None:
    """Ask the kernel to forget the files' pages: no root needed once they are written back."""
    os.sync()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_child(code: str) -> float:
    """The number a fresh Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def synthetic(path: Path, rows: int, dim: int) -> None:
    block = np.random.default_rng(0).standard_normal((1 << 16, dim), dtype=np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    for start in range(0, rows, len(block)):
        out[start : start + len(block)] = block[: rows - start]
    out.flush()


def random_table(path: Path, rows: int, dim: int) -> None:
    """An int8 table of random codes, written block by block."""
    method = pipeline.create("int8").resolve(TableShape(rows, dim))
    specs = method.layout(TableShape(rows, dim))
    block = {s.name: np.random.default_rng(0).integers(0, 50, (1 << 20, *s.row_shape)).astype(s.dtype) for s in specs}
    with TableWriter(
        path,
        shape=TableShape(rows, dim),
        method_id=method.id,
        method_version=1,
        config=method.config(),
        specs=specs,
        job="",
    ) as writer:
        writer.write_shared({})
        for start in range(0, rows, 1 << 20):
            writer.append({name: array[: rows - start] for name, array in block.items()})
        writer.finish()


def small_calls(table: embstore.Table, keys: list[str]) -> dict[str, float]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, len(table), 20_000).tolist()
    words = [keys[i % len(keys)] for i in ids]
    shuffled = [keys[i] for i in rng.permutation(len(keys)).tolist()]
    assert table.keys is not None
    times = timing.rounds(
        {
            "id": lambda: [table[i] for i in ids],
            "key": lambda: [table[w] for w in words],
            "batch": lambda: table.keys.ids(shuffled),
        }
    )
    return {
        "one row by id, us": timing.median(times["id"]) / len(ids) * 1e6,
        "one row by key, us": timing.median(times["key"]) / len(words) * 1e6,
        "batch of keys, M/s": len(keys) / timing.median(times["batch"]) / 1e6,
    }


def cold(path: Path, table: embstore.Table) -> dict[str, Any]:
    """100,000 random rows after the page cache was dropped: embstore beside a numpy memmap of the same codes."""
    n, dim = table.num_embeddings, table.embedding_dim
    codes = path.parent / "codes.bin"
    with open(codes, "wb") as f:
        for shard in sorted((path / "codes" / "c").iterdir(), key=lambda p: int(p.name)):
            rows = min(n - int(shard.name) * table.metadata["generations"][0]["rows_per_shard"],
                       table.metadata["generations"][0]["rows_per_shard"])  # fmt: skip
            with open(shard / "0", "rb") as s:
                remaining = rows * dim
                while remaining:
                    part = s.read(min(remaining, 64 << 20))
                    f.write(part)
                    remaining -= len(part)
    ratios, rates = [], []
    for round_ in range(3):
        ids = np.random.default_rng(round_).integers(0, n, 100_000)
        drop_cache(path)
        fresh = embstore.open(path)
        start = time.perf_counter()
        fresh.lookup(ids)
        mine = time.perf_counter() - start
        drop_cache(codes)
        mapped = np.memmap(codes, np.uint8, "r", shape=(n, dim))
        start = time.perf_counter()
        mapped[ids]
        numpy_s = time.perf_counter() - start
        ratios.append(numpy_s / mine)
        rates.append(len(ids) / mine)
        del mapped, fresh
    codes.unlink()
    return {"cold rows/s": timing.median(rates), "cold, over numpy memmap": timing.median(ratios)}


def main(quick: bool = False, directory: str | None = None) -> None:
    work = Path(tempfile.mkdtemp(prefix="embstore-bench-", dir=directory))
    result: dict[str, Any] = {}
    try:
        result["import embstore, s"] = min(
            in_child("import time; t=time.perf_counter(); import embstore; print(time.perf_counter()-t)")
            for _ in range(5)
        )
        dim = 128
        rows = (1 << 16) if quick else (4 << 30) // (4 * dim)
        source = work / "source.npy"
        synthetic(source, rows, dim)
        code = (
            "import embstore, time, threading\n"
            "peak = 0\n"
            "def watch():\n"
            "    global peak\n"
            "    while True:\n"
            "        anon = [int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon')][0]\n"
            "        peak = max(peak, anon); time.sleep(0.01)\n"
            "import embstore.compression, embstore.sources, numpy\n"
            "base = [int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon')][0]\n"
            "threading.Thread(target=watch, daemon=True).start()\n"
            f"t = time.perf_counter(); embstore.compress({str(source)!r}, {str(work / 'int8')!r})\n"
            "print((peak - base) / 1024, time.perf_counter() - t)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        result["compress to int8, GB/s of input"] = rows * dim * 4 / float(done[-1]) / 1e9
        result["compress, MB of anonymous memory"] = float(done[-2])
        keys = [f"item-{i:09d}" for i in range(1 << 16 if quick else 1_000_000)]
        keyed = embstore.compress(np.load(source, mmap_mode="r")[: len(keys)], work / "keyed", keys=keys)
        result |= small_calls(keyed, keys)
        source.unlink()
        if not quick:
            random_table(work / "big", (8 << 30) // dim, dim)
            result |= cold(work / "big", embstore.open(work / "big"))
        vast = work / "vast"
        sparse_table(vast, (1 << 20) if quick else (50 << 30) // dim, dim)
        measure = (
            "import embstore, time, embstore.table, embstore.methods.int8\n"
            "def rss(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS'))\n"
            f"embstore.open({str(work / 'int8')!r})\n"
            f"before = rss(); t = time.perf_counter(); table = embstore.open({str(vast)!r})\n"
        )
        name = "open 50 GB" if not quick else "open 128 MB"
        opens = [in_child(measure + "print(time.perf_counter() - t)") for _ in range(7)]
        result[f"{name}, ms"] = 1e3 * timing.median(opens)
        result[f"{name}, MB resident"] = in_child(measure + "print((rss() - before) / 1024)")
    finally:
        shutil.rmtree(work)
    result["peak of this process, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, value in result.items():
        print(f"{name:40} {value:12.3f}")
    if not quick:
        print(timing.save("tables", {"figures": result}))
