"""Product codes beside FAISS: learning centroids and encoding, in turns, and the memory that compressing takes.

A million unit rows of 128 around 1,000 centres, as in `retrieval`, to 32 bytes a row; two threads each. Both learn from
65,536 rows: ours draws them, FAISS is handed them. Memory is that of a process beside the page cache, of a quarter of
the rows and of all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import embstore
from embstore import kernels, registry
from embstore.testing.laws import MemoryRows

from . import retrieval, timing

THREADS, SLICES = 2, 32

_COMPRESS = """
import threading, time
import embstore, embstore.compression, embstore.sources, faiss, numpy
peak = 0
def anonymous():
    return [int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('RssAnon')][0]
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.01)
faiss.omp_set_num_threads({threads})
embstore.set_num_threads({threads})
base = anonymous()
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
embstore.compress({source!r}, {to!r}, "pq", m={slices})
print((peak - base) / 1024, time.perf_counter() - start)
"""


def compressed(rows: np.ndarray, work: Path) -> tuple[float, float]:
    """MB and seconds of a process that compresses these rows from a file."""
    source = work / f"{len(rows)}.npy"
    np.save(source, rows)
    code = _COMPRESS.format(threads=THREADS, source=str(source), to=str(work / f"{len(rows)}"), slices=SLICES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    source.unlink()
    megabytes, seconds = map(float, done.stdout.split()[-2:])
    return megabytes, seconds


def error(coder: Any, rows: np.ndarray) -> float:
    """Relative squared error of rows coded and decoded by a FAISS quantizer."""
    decoded = coder.decode(coder.compute_codes(rows))
    return float(np.square(decoded - rows).sum() / np.square(rows).sum())


def measure(n: int, work: Path) -> dict[str, Any]:
    import faiss

    rows, _ = retrieval.make(n, 1)
    source = MemoryRows(rows)
    method = registry.get("pq")(m=SLICES).resolve(source.shape)
    sample = source.sample(1 << 16, np.random.default_rng(0))
    faiss.omp_set_num_threads(THREADS)
    embstore.set_num_threads(THREADS)
    theirs, ours = faiss.ProductQuantizer(retrieval.DIM, SLICES, 8), faiss.ProductQuantizer(retrieval.DIM, SLICES, 8)
    shared: dict[str, Any] = {}
    fits = timing.rounds(
        {
            "pq": lambda: shared.update(method.fit(source, np.random.default_rng(0))),
            "FAISS": lambda: theirs.train(sample),
        },
        count=3,
    )
    books = shared["codebooks"].reshape(256, SLICES, -1).transpose(1, 0, 2)
    faiss.copy_array_to_vector(np.ascontiguousarray(books).ravel(), ours.centroids)
    encode = kernels.encoder(method)
    encodes = timing.rounds(
        {"pq": lambda: encode(shared, np.arange(n), rows), "FAISS": lambda: theirs.compute_codes(rows)}, count=5
    )
    result = {
        "fit, s": timing.median(fits["pq"]), "fit of FAISS, s": timing.median(fits["FAISS"]),
        "fit, times FAISS": timing.ratio(fits, "pq", "FAISS"),
        "encode, s": timing.median(encodes["pq"]), "encode of FAISS, s": timing.median(encodes["FAISS"]),
        "encode, times FAISS": timing.ratio(encodes, "pq", "FAISS"),
        "relative squared error": error(ours, rows[:10_000]),
        "relative squared error of FAISS": error(theirs, rows[:10_000]),
        "codes that are FAISS's own for our centroids": float(
            (encode(shared, np.arange(10_000), rows[:10_000])["codes"] == ours.compute_codes(rows[:10_000])).mean()
        ),
    }  # fmt: skip
    for part in (n // 4, n):
        megabytes, seconds = compressed(rows[:part], work)
        result[f"compress {part:,} rows, MB"] = megabytes
        result[f"compress {part:,} rows, s"] = seconds
    embstore.set_num_threads(None)
    return result


def main(quick: bool = False, directory: str | None = None) -> None:
    n = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="embstore-bench-", dir=directory) as work:
        result = measure(n, Path(work))
    for name, value in result.items():
        print(f"{name:50} {value:12.4g}")
    if not quick:
        print(timing.save("product", {"rows": n, "dim": retrieval.DIM, "threads": THREADS, "figures": result}))
