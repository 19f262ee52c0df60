"""Codes that need no training beside FAISS's RaBitQ and 4-bit scalar codes: lookups and queries a second, in turns.

A million normal rows of 128 values, two threads each. Lookups are of random ids; searches are of batches of 100 for the
10 best by inner product, embstore's with its second scoring of decoded rows. FAISS decodes one bit a value and scans
with its default of 4 bits a query value; its index is given the rows as they are, without the rotation that embstore
applies and undoes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import embstore

from . import timing

SPECS = ("rabitq1", "rabitq2", "rabitq4", "rabitq8", "center,rotate,rabitq4", "turboquant2", "turboquant4", "binary")
THREADS = 2
PEER, SCALAR = "FAISS IndexRaBitQ", "FAISS IndexScalarQuantizer 4 bits"


def relative_error(table: embstore.Table, rows: np.ndarray) -> float:
    decoded = table.lookup(np.arange(len(rows)))
    return float(np.square(decoded - rows).sum() / np.square(rows).sum())


def agreement(table: embstore.Table, queries: np.ndarray, found: np.ndarray) -> float:
    """How many of the 10 best by exact scores of decoded rows were found."""
    best = np.full((len(queries), 10), -np.inf, np.float32)
    ids = np.zeros((len(queries), 10), np.int64)
    start = 0
    for rows in table.blocks(1 << 16):
        scores = np.concatenate([best, queries @ rows.T], axis=1)
        known = np.concatenate(
            [ids, np.broadcast_to(np.arange(start, start + len(rows)), (len(queries), len(rows)))], 1
        )
        order = np.argpartition(-scores, 9, axis=1)[:, :10]
        best, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(known, order, 1)
        start += len(rows)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), ids.tolist(), strict=True)]))


def main(quick: bool = False, directory: str | None = None) -> None:
    import faiss

    n, dim = (50_000 if quick else 1_000_000), 128
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    queries = rng.standard_normal((100, dim), dtype=np.float32)
    ids = rng.integers(0, n, n // 4)
    out = np.empty((len(ids), dim), np.float32)
    faiss.omp_set_num_threads(THREADS)
    embstore.set_num_threads(THREADS)
    scalar = (dim, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT)
    peers = {PEER: faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT), SCALAR: faiss.IndexScalarQuantizer(*scalar)}
    for index in peers.values():
        index.train(rows[:100_000])
        index.add(rows)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=directory) as work:
        tables = {spec: embstore.compress(rows, Path(work, spec.replace(",", "-")), spec) for spec in SPECS}
        lookups: dict[str, Callable[[], Any]] = {}
        searches: dict[str, Callable[[], Any]] = {}
        for name, index in peers.items():
            lookups[name] = lambda i=index: i.reconstruct_batch(ids)
            searches[name] = lambda i=index: i.search(queries, 10)
        for spec, table in tables.items():
            lookups[spec] = lambda t=table: t.lookup(ids, out=out)
            searches[spec] = lambda t=table: t.search(queries, 10, "ip")
        looked, searched = timing.rounds(lookups), timing.rounds(searches)
        for name in lookups:
            results[name] = {
                "lookup, M rows/s": len(ids) / timing.median(looked[name]) / 1e6,
                "search, queries/s": len(queries) / timing.median(searched[name]),
            }
        for spec, table in tables.items():
            results[spec] |= {
                **{f"lookup, times {name}": timing.ratio(looked, spec, name) for name in peers},
                **{f"search, times {name}": timing.ratio(searched, spec, name) for name in peers},
                "bytes/row": table.nbytes / n,
                "relative squared error": relative_error(table, rows[: n // 10]),
                "recall@10 against exact scores of decoded rows": agreement(
                    table, queries, table.search(queries, 10, "ip")[1]
                ),
            }
        for name, index in peers.items():
            results[name]["bytes/row"] = index.code_size
    for name, values in results.items():
        print(name, *(f"    {key}: {value:.4g}" for key, value in values.items()), sep="\n", flush=True)
    if not quick:
        timing.save("codes", {"rows": n, "dim": dim, "threads": THREADS, "results": results})
