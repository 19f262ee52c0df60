"""Search of finished tables on questions with answers: recall, nDCG, bytes, build time and speed, beside FAISS's codes.

    python -m bench retrieval --data limit-small nfcorpus/ glove-100-angular.hdf5

Every table is searched exhaustively, as it is and with the candidates scored again from the float32 rows ("rerank"),
which are then counted too. docs/benchmarks.md says what the data look like and what the figures mean.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import embstore
from embstore import threads
from embstore.errors import ConfigError, EmbstoreError

from . import timing
from .retrieval_data import F32, Questions, read

Ids = npt.NDArray[np.int64]
FILE = timing.RESULTS / "search.json"
METHODS = (
    "float32", "float16", "int8", "int4", "int2", "nf4", "center,rabitq1", "center,rabitq4",
    "pca,tcq@4bpd", "pca,tcq@2bpd", "pca,tcq@1bpd", "pq@2bpd", "pq@1bpd", "rq@1bpd",
)  # fmt: skip
KS = (2, 10, 100)
BATCH, ROUNDS = 100, 3
VERSION = 1  # of the file of results
# A sample that codes of FAISS are trained on, as its documents advise: 256 rows a centroid.
_TRAINED = 1 << 16


Search = Callable[[F32, int], Ids]


@dataclass(frozen=True)
class Contender:
    """`build()` makes searches of queries and k for ids (q, k): whether one reranks, itself, the bytes it needs."""

    who: str
    name: str
    build: Callable[[], list[tuple[bool, Search, int]]]


def ours(asked: Questions, methods: Sequence[str], work: Path) -> Iterator[Contender]:
    """Each method, "method@budget" with a budget, plain and with a rerank of what loses anything."""

    def build(text: str, place: Path) -> list[tuple[bool, Search, int]]:
        method, _, budget = text.partition("@")
        table = embstore.compress(asked.rows, place, method, budget=budget or None)

        def search(finer: F32 | None) -> Search:
            return lambda queries, k: table.search(queries, k, asked.metric, rerank=finer)[1]

        plain = (False, search(None), table.nbytes)
        return [plain] if method == "float32" else [plain, (True, search(asked.rows), table.nbytes + asked.rows.nbytes)]

    for number, text in enumerate(methods):
        yield Contender("embstore", text, functools.partial(build, text, work / str(number)))


def peers(asked: Questions) -> Iterator[Contender]:
    """Exhaustive codes of FAISS by its factory strings, and of USearch; those of them that are installed."""
    yield from _faiss(asked)
    yield from _usearch(asked)


def _unit(asked: Questions, rows: F32) -> F32:
    """Rows for a peer that has inner products but no cosine."""
    if asked.metric != "cosine":
        return rows
    unit: F32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    return unit


def _faiss(asked: Questions) -> Iterator[Contender]:
    try:
        import faiss
    except ImportError as error:
        print(f"left out: {error}", file=sys.stderr)
        return
    dim = asked.rows.shape[1]
    metric = faiss.METRIC_L2 if asked.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    quarter = next(m for m in range(max(1, dim // 4), 0, -1) if dim % m == 0)
    fast = 2 * quarter if dim % (2 * quarter) == 0 else quarter

    def search(index: Any) -> Search:
        return lambda queries, k: index.search(_unit(asked, queries), k)[1]

    def build(name: str) -> list[tuple[bool, Search, int]]:
        rows = _unit(asked, asked.rows)
        index = faiss.index_factory(dim, name, metric)
        index.train(rows[:: max(1, len(rows) // _TRAINED)])
        index.add(rows)
        plain = (False, search(index), len(faiss.serialize_index(index)))
        if name == "Flat":
            return [plain]
        finer = faiss.IndexRefineFlat(index, faiss.swig_ptr(rows))
        finer.k_factor = 4
        return [plain, (True, search(finer), len(faiss.serialize_index(finer)))]

    # "np": without what polysemous codes learn, which this search does not use and which takes minutes.
    for name in ("Flat", "SQfp16", "SQ8", "SQ4", "RaBitQ", f"PQ{quarter}x8np", f"PQ{fast}x4fs"):
        yield Contender("FAISS", name, functools.partial(build, name))


def _usearch(asked: Questions) -> Iterator[Contender]:
    try:
        from usearch.index import MetricKind, search
    except ImportError as error:
        print(f"left out: {error}", file=sys.stderr)
        return
    kind = {"cosine": MetricKind.Cos, "ip": MetricKind.IP, "l2": MetricKind.L2sq}[asked.metric]

    def build(dtype: type) -> list[tuple[bool, Search, int]]:
        codes = asked.rows.astype(dtype)

        def run(queries: F32, k: int) -> Ids:
            found = search(codes, queries.astype(dtype), k, kind, exact=True, threads=threads.get_num_threads())
            return np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)

        return [(False, run, codes.nbytes)]

    for dtype in (np.float32, np.float16):
        yield Contender("USearch", f"{np.dtype(dtype)} exact", functools.partial(build, dtype))


def measures(asked: Questions, found: Ids, ks: Sequence[int]) -> dict[str, float | None]:
    """Means over queries: recall@k, and nDCG@k where answers are judged.

    Recall is the share of what is relevant among the k found; of neighbours, the share of the k nearest. nDCG has
    the relevance as gain, discounted by log2(rank + 1), over that of the best order (Järvelin, Kekäläinen, TOIS 2002,
    as trec_eval has it).
    """
    result: dict[str, float | None] = {}
    for k in ks:
        recalls, gained = [], []
        for q, ids in enumerate(found):
            top = ids[:k]
            wanted = asked.relevant[q] if asked.gains else asked.relevant[q][:k]
            recalls.append(np.isin(wanted, top).mean())
            if asked.gains:
                worth = dict(zip(wanted.tolist(), asked.gains[q].tolist(), strict=True))
                discount = 1 / np.log2(np.arange(2, k + 2))
                best = np.sort(asked.gains[q])[::-1][:k]
                own = np.array([worth.get(i, 0.0) for i in top.tolist()])
                gained.append((own * discount[: len(own)]).sum() / (best * discount[: len(best)]).sum())
        result[f"recall@{k}"] = float(np.mean(recalls))
        result[f"nDCG@{k}"] = float(np.mean(gained)) if gained else None
    return result


def measure(asked: Questions, contenders: Sequence[Contender], ks: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each contender: what it finds, needs and takes; `reason` where it cannot be built."""
    depth = max(ks)
    batch = np.resize(asked.queries, (min(BATCH, max(1, len(asked.queries))), asked.queries.shape[1]))
    rows, runs = [], {}
    for one in contenders:
        named = {"who": one.who, "name": one.name}
        start = time.perf_counter()
        try:
            made = one.build()
        except (EmbstoreError, RuntimeError) as refused:
            # FAISS names the place in its source first.
            rows.append(
                {**named, "rerank": False, "reason": str(refused).strip().splitlines()[-1].split("failed: ")[-1]}
            )
            continue
        seconds = time.perf_counter() - start
        for rerank, search, nbytes in made:
            row = {**named, "rerank": rerank, "nbytes": nbytes, "bits_per_value": 8 * nbytes / asked.rows.size}
            rows.append({**row, "build_seconds": seconds, **measures(asked, search(asked.queries, depth), ks)})
            label = f"{one.who} {one.name}{' rerank' if rerank else ''}"
            few = min(10, depth)
            runs[label] = (rows[-1], functools.partial(search, batch, few), functools.partial(search, batch[:1], few))
            figures = (f"{k} {v:.4f}" for k, v in rows[-1].items() if "@" in k and v is not None)
            print(asked.name, label, *figures, flush=True)
    for size, place in ((len(batch), 1), (1, 2)):
        times = timing.rounds({name: of[place] for name, of in runs.items()}, ROUNDS if size > 1 else 7)
        for name, of in runs.items():
            of[0]["queries_per_s" if size > 1 else "queries_per_s_alone"] = size / timing.median(times[name])
    return rows


def main(arguments: list[str]) -> int:
    """0 when all was measured; 2 where data cannot be read."""
    given = _options(arguments)
    found = stored(Path(given.out))
    embstore.set_num_threads(given.threads)
    _peer_threads(given.threads)
    for what in given.data:
        try:
            asked = read(what, given.metric, given.dim)
            if given.queries is not None:
                asked = first(asked, given.queries)
            # All rows are found among as many as there are.
            ks = sorted({k for k in given.k if k < len(asked.rows)})
            if not ks:
                raise ConfigError(f"{what} has {len(asked.rows)} rows, found no k below that; lower --k")
            if asked.gains is None and min(map(len, asked.relevant)) < max(ks):
                raise ConfigError(
                    f"{what} has {min(map(len, asked.relevant))} neighbours a query, found k {max(ks)}; lower --k"
                )
            with tempfile.TemporaryDirectory(prefix="embstore-bench-", dir=given.dir) as work:
                contenders = [*ours(asked, given.methods, Path(work)), *(() if given.no_peers else peers(asked))]
                rows = measure(asked, contenders, ks)
        except EmbstoreError as fault:
            print(f"error: {fault}", file=sys.stderr)
            return 2
        about = {
            "name": asked.name, "num_embeddings": len(asked.rows), "embedding_dim": asked.rows.shape[1],
            "queries": len(asked.queries), "metric": asked.metric, "vectors": asked.vectors, "threads": given.threads,
            "k": ks, "batch": min(BATCH, len(asked.queries)), "environment": timing.environment(), "rows": rows,
        }  # fmt: skip
        found = [each for each in found if each["name"] != asked.name] + [about]
        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
        Path(given.out).write_text(json.dumps({"version": VERSION, "searched": found}, indent=1) + "\n")
        print(given.out)
    return 0


def stored(file: Path) -> list[dict[str, Any]]:
    """The data sets of a file of results, none where it is not there; one of another version is refused."""
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        sys.exit(f"error: {file} must be results of search of version {VERSION}, found {version!r}; name another --out")
    return list(found["searched"])


def first(asked: Questions, count: int) -> Questions:
    """The same with the first `count` queries."""
    gains = None if asked.gains is None else asked.gains[:count]
    return Questions(
        asked.name, asked.rows, asked.queries[:count], asked.metric, asked.relevant[:count], gains, asked.vectors
    )


def _peer_threads(count: int) -> None:
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(count)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench retrieval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, help="limit-small, folders of BEIR, HDF5 of ann-benchmarks")
    parser.add_argument("--metric", choices=("cosine", "ip", "l2"), help="cosine; of HDF5 the file's own")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="pipelines, with @budget if need be")
    parser.add_argument("--no-peers", action="store_true", help="leave out FAISS and USearch")
    parser.add_argument("--k", nargs="+", type=int, default=list(KS), help="numbers of rows to find")
    parser.add_argument("--dim", type=int, default=256, help="of vectors of hashed words, where a folder has none")
    parser.add_argument("--queries", type=int, help="the first so many only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dir", help="where tables are written")
    parser.add_argument("--out", default=str(FILE))
    given = parser.parse_args(arguments)
    if min([*given.k, given.dim, given.threads, given.queries or 1]) < 1:
        parser.error("--k, --dim, --queries and --threads must be 1 or more")
    return given
