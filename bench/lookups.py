"""Lookups of codes that were trained, beside FAISS's `reconstruct_batch` of the same codes, in turns.

Four million rows of 128 values, so that the codes lie beyond the caches; uniform random ids; one thread and two. Codes
and codebooks are random: what a lookup costs does not depend on what they say, and every codeword is read as often as
any other, which is the worst that codes can do. The index comes first and the table holds its codes as they are
(`embstore.from_faiss`), so both decode the same bytes. `numpy.take` reads the float32 rows, on one thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import embstore

from . import timing

DIM, IDS = 128, 1 << 18
FACTORIES = ("PQ16", "PQ32", "PQ64", "PQ32x4", "OPQ16,PQ16", "OPQ32,PQ32", "RQ8x8", "RQ16x8", "RQ32x4")
TAKE = "numpy.take"


def index_of(factory: str, n: int) -> Any:
    """A FAISS index of random codes, with random codebooks and a random rotation."""
    import faiss

    rng = np.random.default_rng(0)
    index = faiss.index_factory(DIM, factory)
    flat = index
    if isinstance(index, faiss.IndexPreTransform):
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        matrix = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
        faiss.copy_array_to_vector(np.ascontiguousarray(matrix, np.float32).ravel(), rotation.A)
        rotation.is_trained = rotation.is_orthonormal = True
        flat = faiss.downcast_index(index.index)
    product = isinstance(flat, faiss.IndexPQ)
    coder = flat.pq if product else flat.rq
    words = int(coder.ksub if product else coder.total_codebook_size)
    books = coder.centroids if product else coder.codebooks
    faiss.copy_array_to_vector(rng.standard_normal(words * DIM, dtype=np.float32), books)
    coder.is_trained = True
    faiss.copy_array_to_vector(rng.integers(0, 256, n * flat.code_size, np.uint8), flat.codes)
    for part in (flat, index):
        part.is_trained, part.ntotal = True, n
    return index


def measure(factory: str, n: int, rows: np.ndarray, work: Path) -> list[dict[str, Any]]:
    import faiss

    index = index_of(factory, n)
    table = embstore.from_faiss(index, work / factory.replace(",", "-"))
    ids = np.random.default_rng(1).integers(0, n, IDS)
    out, taken = np.empty((IDS, DIM), np.float32), np.empty((IDS, DIM), np.float32)
    few = ids[:1000]
    if not np.allclose(table.lookup(few), index.reconstruct_batch(few), atol=1e-4):
        raise RuntimeError(f"the table of {factory} decodes other rows than FAISS")
    contenders: dict[str, Callable[[], Any]] = {
        "embstore": lambda: table.lookup(ids, out=out),
        "FAISS": lambda: index.reconstruct_batch(ids),
        TAKE: lambda: np.take(rows, ids, axis=0, out=taken, mode="clip"),
    }
    found = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        embstore.set_num_threads(threads)
        times = timing.rounds(contenders)
        found.append({
            "code": factory, "method": str(table.method), "bytes": table.nbytes / n, "threads": threads,
            "M rows/s": {name: IDS / timing.median(t) / 1e6 for name, t in times.items()},
            "over": {name: timing.ratio(times, "embstore", name) for name in ("FAISS", TAKE)},
        })  # fmt: skip
    embstore.set_num_threads(None)
    return found


def main(quick: bool = False, directory: str | None = None) -> None:
    n = 100_000 if quick else 4_000_000
    rows = np.random.default_rng(2).standard_normal((n, DIM), dtype=np.float32)
    results = []
    with tempfile.TemporaryDirectory(prefix="embstore-bench-", dir=directory) as work:
        for factory in FACTORIES:
            for found in measure(factory, n, rows, Path(work)):
                results.append(found)
                rates = ", ".join(f"{name} {rate:.2f}" for name, rate in found["M rows/s"].items())
                print(
                    f"{factory} x {found['threads']}: {rates} M rows/s; over FAISS {found['over']['FAISS']:.1f}, "
                    f"over take {found['over'][TAKE]:.2f}",
                    flush=True,
                )
    if not quick:
        print(timing.save("lookups", {"rows": n, "dim": DIM, "results": results}))
