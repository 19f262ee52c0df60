"""Whole tables from files: opening, single rows, keys, cold batches, compressing."""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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


def device_reads(file: Path, depth: int, seconds: float = 2.0) -> float:
    """Random 4 KiB reads a second that the disk gives with `depth` of them under way, past the page cache."""
    fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
    pages, end, done = os.fstat(fd).st_size // 4096, time.perf_counter() + seconds, [0] * depth

    def read(seed: int) -> None:
        offsets = (np.random.default_rng(seed).integers(0, pages, 4096) * 4096).tolist()
        into = [mmap.mmap(-1, 4096)]
        while time.perf_counter() < end:
            os.preadv(fd, into, offsets[done[seed] % 4096])
            done[seed] += 1

    threads = [threading.Thread(target=read, args=(i,)) for i in range(depth)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    return sum(done) / (time.perf_counter() - start)


def write_codes(table: embstore.Table, to: Path) -> None:
    """The codes alone, as numpy maps them; read, not mapped, because mapped pages cannot be dropped from the cache."""
    generation = table.metadata["generations"][0]
    with open(to, "wb") as out:
        for shard, start in enumerate(range(0, table.num_embeddings, generation["rows_per_shard"])):
            rows = min(generation["rows_per_shard"], table.num_embeddings - start)
            with open(Path(table.path) / "codes" / "c" / str(shard) / "0", "rb") as file:
                for remaining in range(rows * table.embedding_dim, 0, -(64 << 20)):
                    out.write(file.read(min(remaining, 64 << 20)))


def cold(table: embstore.Table, rounds: int = 7) -> dict[str, Any]:
    """100,000 random rows after the page cache was dropped: embstore and a numpy memmap of the same codes in turns."""
    path, n, dim = Path(table.path), table.num_embeddings, table.embedding_dim
    codes = path.parent / "codes.bin"
    write_codes(table, codes)
    out, grown = np.ones((100_000, dim), np.float32), []  # ones: pages of zeros would be made in the lookup

    def mine(ids: npt.NDArray[np.int64]) -> float:
        drop_cache(path)
        fresh = embstore.open(path)
        before, start = anonymous_kb(), time.perf_counter()
        fresh.lookup(ids, out=out)
        taken = time.perf_counter() - start
        grown.append(anonymous_kb() - before)
        return taken

    def numpys(ids: npt.NDArray[np.int64]) -> float:
        drop_cache(codes)
        mapped = np.memmap(codes, np.uint8, "r", shape=(n, dim))
        start = time.perf_counter()
        mapped[ids]
        return time.perf_counter() - start

    ratios, seconds = [], []
    for round_ in range(rounds):
        ids = np.random.default_rng(round_).integers(0, n, 100_000)
        times = {run: run(ids) for run in ((mine, numpys) if round_ % 2 else (numpys, mine))}
        seconds.append(times[mine])
        ratios.append(times[numpys] / times[mine])
    result = {
        "cold rows/s": 100_000 / timing.median(seconds),
        "cold, over numpy memmap": timing.median(ratios),
        "cold, over numpy memmap, worst round": min(ratios),
        "cold, MB kept beside the page cache": timing.median(grown) / 1024,
        "disk, random 4 KiB reads/s, one at a time": device_reads(codes, 1),
        "disk, random 4 KiB reads/s, many at a time": max(device_reads(codes, depth) for depth in (16, 32, 64)),
    }
    codes.unlink()
    return result


def anonymous_kb() -> int:
    """Memory of this process that is not the page cache."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


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
            result |= cold(embstore.open(work / "big"))
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
