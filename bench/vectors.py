"""Error and recall for the bytes, everything counted: our codes beside those of FAISS and bitsandbytes.

A method of ours is given each budget and chooses its sizes; a peer has no budgets, so it is run at many sizes, and the
best of those that need no more than the budget and 1 % counts.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import embstore
from embstore import errors

from . import timing
from .errors import relative_error

BUDGETS = (8.0, 4.0, 3.0, 2.0, 1.6, 1.0, 0.5)
SLACK = 1.01
Coded = tuple[str, np.ndarray, int]


def datasets(folder: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(name, metric, rows, queries) of what is in the data folder."""
    words = folder / "words" / "glove.6B.50d.top100k.npy"
    if words.exists():
        rows = np.load(words)
        for n in (20_000, len(rows)):
            chosen = np.random.default_rng(0).choice(n, 500, replace=False)
            yield f"GloVe 6B 50d, {n:,} rows", "cosine", rows[:n], rows[chosen]
    sift = folder / "vectors" / "sift5k"
    if sift.exists():
        with gzip.open(sift / "sift-dataset-5k.tsv.gz") as file:
            rows = np.loadtxt(file, dtype=np.float32)[:, :128]
        queries = np.fromfile(sift / "siftsmall_query.fvecs", np.int32).reshape(-1, 129)[:, 1:].view(np.float32)
        yield f"SIFT, {len(rows):,} rows", "l2", np.ascontiguousarray(rows), queries


def neighbours(rows: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """The 11 nearest rows of each query."""
    if metric == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        scores = queries @ rows.T
    else:
        scores = 2 * queries @ rows.T - np.square(rows).sum(axis=1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :11]


def recall(decoded: np.ndarray, exact: np.ndarray, queries: np.ndarray, metric: str) -> float:
    """Share of the 10 exact neighbours among the 10 found; a query that is a row itself is not its own neighbour."""
    found, first = neighbours(decoded, queries, metric), 1 if metric == "cosine" else 0
    want = exact[:, first : first + 10]
    own = exact[:, :1] if first else np.full((len(exact), 1), -1)
    hits = 0
    for f, w, o in zip(found, want, own, strict=True):
        hits += len(np.intersect1d(f[f != o][:10], w))
    return hits / want.size


def ours(rows: np.ndarray, budget: float) -> Iterator[Coded]:
    dim = rows.shape[1]
    kept = sorted({dim, *(d for d in (dim // 2, dim // 3, dim // 4, dim // 8) if budget <= 2 and d >= 4)})
    for spec in [*(f"pca{d},tcq" for d in kept), "tcq", *(("pq", "rq") if budget <= 1 else ())]:
        with tempfile.TemporaryDirectory() as work:
            try:
                table = embstore.compress(rows, Path(work) / "t", spec, budget=f"{budget}bpd")
            except errors.BudgetError:
                continue
            yield spec, table.lookup(np.arange(len(rows))), table.nbytes


def peers(rows: np.ndarray, slow: bool) -> Iterator[Coded]:
    """Each peer at each size; `slow` asks for those that need minutes on 100,000 rows."""
    import faiss

    n, dim = rows.shape
    for bits, kind in ((8, faiss.ScalarQuantizer.QT_8bit), (6, faiss.ScalarQuantizer.QT_6bit),
                       (4, faiss.ScalarQuantizer.QT_4bit)):  # fmt: skip
        scalar = faiss.ScalarQuantizer(dim, kind)
        scalar.train(rows)
        codes = scalar.compute_codes(rows)
        yield f"FAISS SQ{bits}", scalar.decode(codes), codes.nbytes + 8 * dim
    slices = [m for m in range(1, dim + 1) if dim % m == 0 and m * 4 <= 8.1 * dim]
    for bits in (4, 6, 8):
        for m in slices:
            yield _product(faiss, rows, m, bits, None)
            if m < dim and (slow or bits == 8):
                yield _product(faiss, rows, m, bits, faiss.OPQMatrix(dim, m))
    for m, bits in ((1, 8), (2, 8), (4, 8), (4, 6), (8, 6), (8, 5), (16, 5), (16, 4), (32, 4)):
        size = 4 * dim * m * 2**bits
        if size > n * dim // 2:
            continue
        kinds: dict[str, Callable[[], Any]] = {"RQ": lambda m=m, b=bits: faiss.ResidualQuantizer(dim, m, b)}
        if slow:
            kinds["LSQ"] = lambda m=m, b=bits: faiss.LocalSearchQuantizer(dim, m, b)
            if m > 1 and dim % 2 == 0:
                kinds["PRQ"] = lambda m=m, b=bits: faiss.ProductResidualQuantizer(dim, 2, m // 2, b)
        for name, make in kinds.items():
            coder = make()
            coder.train(rows)
            books = size // 2 if name == "PRQ" else size
            yield f"FAISS {name}{m}x{bits}", coder.decode(coder.compute_codes(rows)), n * coder.code_size + books
    yield from _bitsandbytes(rows)


def _product(faiss: Any, rows: np.ndarray, m: int, bits: int, rotation: Any) -> Coded:
    n, dim = rows.shape
    coder = faiss.ProductQuantizer(dim, m, bits)
    codebooks, name = 4 * dim * 2**bits, f"PQ{m}x{bits}"
    x = rows
    if rotation is not None:
        rotation.pq = faiss.ProductQuantizer(dim, m, bits)
        rotation.niter = 20
        rotation.train(rows)
        x = rotation.apply(rows)
        codebooks, name = codebooks + 4 * dim * dim, f"OPQ{m},PQ{m}x{bits}"
    coder.train(x)
    decoded = coder.decode(coder.compute_codes(x))
    if rotation is not None:
        decoded = rotation.reverse_transform(decoded)
    return f"FAISS {name}", decoded, n * coder.code_size + codebooks


def _bitsandbytes(rows: np.ndarray) -> Iterator[Coded]:
    try:
        import bitsandbytes.functional as bnb
        import torch
    except ImportError:
        return
    x = torch.from_numpy(rows)
    try:
        codes, state = bnb.quantize_blockwise(x, blocksize=64)
        nbytes = codes.numel() + 4 * state.absmax.numel() + 1024
        yield "bitsandbytes dynamic 8-bit", bnb.dequantize_blockwise(codes, state).numpy(), nbytes
        codes, state = bnb.quantize_4bit(x, blocksize=64, quant_type="nf4")
        nbytes = codes.numel() + 4 * state.absmax.numel() + 64
        yield "bitsandbytes NF4", bnb.dequantize_4bit(codes, state).numpy(), nbytes
    except (RuntimeError, NotImplementedError) as error:
        print(f"bitsandbytes left out: {error}")


def main() -> None:
    folder = Path(os.environ.get("EMBSTORE_TEST_DATA", "../shared/data"))
    found: list[dict[str, Any]] = []
    for name, metric, rows, queries in datasets(folder):
        exact = neighbours(rows, queries, metric)

        def measured(
            coded: Coded, seconds: float, rows: Any = rows, metric: str = metric, **more: Any
        ) -> dict[str, Any]:
            label, decoded, nbytes = coded
            row = {
                **more, "method": label, "bpd": 8 * nbytes / rows.size, "error": relative_error(decoded, rows),
                "recall": recall(decoded, exact, queries, metric), "seconds": seconds,  # noqa: B023
            }  # fmt: skip
            print(
                f"{row['method']:28} {row['bpd']:6.3f} bpd {row['error']:.3e} {row['recall']:.3f} {seconds:.0f} s",
                flush=True,
            )
            return row

        print(name)
        theirs, mine = [], []
        for budget in BUDGETS:
            start = time.perf_counter()
            for coded in ours(rows, budget):
                mine.append(measured(coded, time.perf_counter() - start, budget=budget))
                start = time.perf_counter()
        start = time.perf_counter()
        for coded in peers(rows, slow=len(rows) <= 20_000):
            theirs.append(measured(coded, time.perf_counter() - start))
            start = time.perf_counter()
        found.append({"table": name, "metric": metric, "budgets": compare(mine, theirs), "all": mine + theirs})
        print(timing.save("vectors", {"tables": found}))
    if not found:
        print(f"skipped: no data in {folder}; set EMBSTORE_TEST_DATA")


def compare(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each budget our least error, and the least error and best recall of a peer; None where none fits."""
    found = []
    for budget in BUDGETS:
        own = [r for r in mine if r["budget"] == budget]
        fit = [r for r in theirs if r["bpd"] <= budget * SLACK]
        found.append({
            "budget": budget,
            "ours": min(own, key=lambda r: r["error"], default=None),
            "peer": min(fit, key=lambda r: r["error"], default=None),
            "recall": max(fit, key=lambda r: r["recall"], default=None),
        })  # fmt: skip
    return found
