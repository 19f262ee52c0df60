"""Exhaustive search beside FAISS and USearch: a million rows of 128, the 10 nearest by inner product of unit rows.

Everyone searches codes of the same rows with the same number of threads: of 8 bits a value, product codes (FAISS those
of 4 bits by its fast scan), and FAISS also float32. Recall is against float32 products of the original rows. Rows lie
around 1,000 centres, queries around rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import embstore

from . import timing

DIM, K, THREADS = 128, 10, 2
METHODS = ("int8", "int4", "int2", "nf4", "pq32x4", "pq64x4", "pq32x8", "float32")
PRODUCT = ("PQ32x4fs", "PQ64x4fs", "PQ32x8")
PEERS = ("FAISS SQ8", "USearch int8", *(f"FAISS {name}" for name in PRODUCT))


def make(n: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows and queries."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, DIM), dtype=np.float32)
    rows = centres[rng.integers(0, len(centres), n)] + rng.standard_normal((n, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    asked = rows[rng.integers(0, n, queries)]
    asked = asked + 0.3 / np.sqrt(DIM) * rng.standard_normal((queries, DIM), dtype=np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    return rows, asked.astype(np.float32)


def nearest(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    best = np.zeros((len(queries), 0), np.float32)
    ids = np.zeros((len(queries), 0), np.int64)
    for first in range(0, len(rows), 1 << 16):
        scores = queries @ rows[first : first + (1 << 16)].T
        best = np.concatenate([best, scores], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(first + np.arange(scores.shape[1]), scores.shape)], axis=1)
        order = np.argsort(-best, axis=1)[:, :K]
        best, ids = np.take_along_axis(best, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return ids


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


Search = Callable[[np.ndarray], np.ndarray]


def peers(rows: np.ndarray) -> dict[str, Search]:
    """Query to ids, of every peer that is installed."""
    found: dict[str, Search] = {}
    try:
        import faiss

        faiss.omp_set_num_threads(THREADS)
        coded = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        coded.train(rows[:: max(1, len(rows) // 100_000)])
        coded.add(rows)
        flat = faiss.IndexFlatIP(DIM)
        flat.add(rows)
        for name in PRODUCT:
            product = faiss.index_factory(DIM, name, faiss.METRIC_INNER_PRODUCT)
            product.train(rows[:: max(1, len(rows) // 65_536)])
            product.add(rows)
            found[f"FAISS {name}"] = lambda queries, index=product: index.search(queries, K)[1]
        found["FAISS SQ8"] = lambda queries: coded.search(queries, K)[1]
        found["FAISS flat"] = lambda queries: flat.search(queries, K)[1]
    except ImportError as error:
        print(f"left out: {error}")
    try:
        from usearch.index import MetricKind, search

        def to_bytes(x: np.ndarray) -> np.ndarray:
            return np.rint(x * (127 / np.abs(x).max(axis=1, keepdims=True))).astype(np.int8)

        codes = to_bytes(rows)
        found["USearch int8"] = lambda queries: search(
            codes, to_bytes(queries), K, MetricKind.Cos, exact=True, threads=THREADS
        ).keys.reshape(len(queries), K)
    except ImportError as error:
        print(f"left out: {error}")
    return found


def main(quick: bool = False, directory: str | None = None) -> None:
    with tempfile.TemporaryDirectory(prefix="embstore-bench-", dir=directory) as work:
        result = measure(50_000 if quick else 1_000_000, Path(work))
    if not quick:
        print(timing.save("retrieval", result))


def measure(n: int, work: Path) -> dict[str, Any]:
    rows, queries = make(n, 100)
    truth = nearest(rows, queries)
    contenders: dict[str, Search] = {}
    for name in METHODS:
        table = embstore.compress(rows, work / name, name)
        contenders[f"embstore {name}"] = lambda q, t=table: t.search(q, K, "ip")[1]
        if name in ("int8", "int4"):
            contenders[f"embstore {name}, rerank"] = lambda q, t=table: t.search(q, K, "ip", rerank=rows)[1]
    contenders |= peers(rows)
    embstore.set_num_threads(THREADS)
    measured = []
    for batch in (1, 100):
        asked = queries[:batch]
        runs = {name: lambda s=search, q=asked: s(q) for name, search in contenders.items()}
        times = timing.rounds(runs, count=7 if batch == 1 else 3)
        for name, search in contenders.items():
            row = {
                "name": name, "batch": batch, "queries_per_s": batch / timing.median(times[name]),
                "recall": recall(search(queries), truth),
                "over": {peer: timing.ratio(times, name, peer) for peer in PEERS if peer in times},
            }  # fmt: skip
            measured.append(row)
            over = ", ".join(f"{ratio:.1f} x {peer}" for peer, ratio in row["over"].items())
            print(f"{batch:4} {name:24} {row['queries_per_s']:8.0f} queries/s, recall {row['recall']:.3f}; {over}")
    embstore.set_num_threads(None)
    return {"num_embeddings": n, "embedding_dim": DIM, "k": K, "threads": THREADS, "rows": measured}
