"""Error and recall for the bytes, everything counted: our codes beside those of FAISS and bitsandbytes.

    python -m bench vectors [--data glove-20k glove-100k sift] [--kinds embstore SQ PQ …] [--budgets 4 2 …]
                            [--most-seconds 600]

A method of ours is given each budget and chooses its sizes; a peer has no budgets, so it is run at the sizes `peers`
says, and the best of those that need no more than the budget and 1 % counts. One JSON line per finished measure is
appended to bench/results/vectors.jsonl, and a measure that is there is not done again: the parts may run side by side.
Each runs in a process of its own, ended after --most-seconds; a measure so left out gets a line with the reason, and is
tried again when more seconds are given. When a run ends, bench/results/vectors.json holds the tables of all lines.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import embstore
from embstore import errors

from . import peers, timing
from .errors import relative_error

BUDGETS = (8.0, 4.0, 3.0, 2.0, 1.6, 1.0, 0.5)
MAY_MISS = 0.005  # of recall
FILE = timing.RESULTS / "vectors.jsonl"

Measure = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """Rows to compress, queries to find neighbours of, and the metric: "cosine" with rows as queries, or "l2"."""

    name: str
    metric: str
    rows: np.ndarray
    queries: np.ndarray


def _glove(folder: Path, n: int) -> Data | None:
    words = folder / "words" / "glove.6B.50d.top100k.npy"
    if not words.exists():
        return None
    rows = np.ascontiguousarray(np.load(words)[:n])
    chosen = np.random.default_rng(0).choice(n, 500, replace=False)
    return Data(f"GloVe 6B 50d, {n:,} rows", "cosine", rows, rows[chosen])


def _sift(folder: Path) -> Data | None:
    sift = folder / "vectors" / "sift5k"
    if not sift.exists():
        return None
    with gzip.open(sift / "sift-dataset-5k.tsv.gz") as file:
        rows = np.ascontiguousarray(np.loadtxt(file, dtype=np.float32)[:, :128])
    queries = np.fromfile(sift / "siftsmall_query.fvecs", np.int32).reshape(-1, 129)[:, 1:].view(np.float32)
    return Data(f"SIFT, {len(rows):,} rows", "l2", rows, queries)


DATA: dict[str, Callable[[Path], Data | None]] = {
    "glove-20k": lambda folder: _glove(folder, 20_000),
    "glove-100k": lambda folder: _glove(folder, 100_000),
    "sift": _sift,
}
KINDS = ("embstore", "SQ", "PQ", "OPQ", "RQ", "PRQ", "LSQ", "PLSQ", "bitsandbytes")


def neighbours(rows: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """The 11 nearest rows of each query."""
    if metric == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        scores = queries @ rows.T
    else:
        scores = 2 * queries @ rows.T - np.square(rows).sum(axis=1)
    near = np.sort(np.argpartition(-scores, 32, axis=1)[:, :32], axis=1)
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")[:, :11]
    return np.take_along_axis(near, order, axis=1)


def recall(decoded: np.ndarray, exact: np.ndarray, queries: np.ndarray, metric: str) -> float:
    """Share of the 10 exact neighbours among the 10 found; a query that is a row itself is not its own neighbour."""
    found, first = neighbours(decoded, queries, metric), 1 if metric == "cosine" else 0
    want = exact[:, first : first + 10]
    own = exact[:, :1] if first else np.full((len(exact), 1), -1)
    hits = 0
    for f, w, o in zip(found, want, own, strict=True):
        hits += len(np.intersect1d(f[f != o][:10], w))
    return hits / want.size


def ours(rows: np.ndarray, budget: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pipelines that may suit a budget, with fields of their configs; one without sizes chooses them by the budget."""
    dim = rows.shape[1]
    yield "tcq", {}
    if budget >= 8 and (rows == np.clip(np.rint(rows), 0, 255)).all():
        yield "int8", {"step": 1.0, "offset": 0.0}
    # Where the components of all values are more than 5 % of the budget, fewer leave bytes for more bits of each.
    parts = (5, 4, 3, 2, 4 / 3) if 4 * dim * dim > 0.05 * budget * rows.size / 8 and budget <= 2 else ()
    for kept in sorted({dim, *(int(dim / part) for part in parts)}):
        yield f"pca{kept},tcq", {}
    if budget <= 1.6:
        yield "pq", {}
        for m, bits, _ in peers.sizes(
            rows, (budget,), (4, 5, 6, 7, 8), list(range(1, 33)), lambda m, b: 2 * dim * m * 2**b, 3, slack=1.0
        ):
            # A wide beam costs little where codes are few.
            yield f"rq{m}x{bits}", {"codebook_dtype": "float16", "beam": 32 if m <= 4 else 8}


def _compressed(rows: np.ndarray, spec: str, config: dict[str, Any], budget: float) -> tuple[np.ndarray, int, str]:
    with tempfile.TemporaryDirectory() as work:
        # A size that is named is what fits the budget; the rest is chosen by it.
        limit = None if config else f"{budget}bpd"
        table = embstore.compress(rows, Path(work) / "t", spec, budget=limit, **config)
        return table.lookup(np.arange(len(rows))), table.nbytes, str(table.method)


def _finished(make: Callable[[], Measure], seconds: float) -> Measure:
    """What `make` gives in a child process, or the reason why nothing came of it in so many seconds."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(make()), daemon=True)
    child.start()
    there.close()
    try:
        if not here.poll(seconds):
            child.kill()
            return {"reason": f"not done after {seconds:.0f} s", "limit": seconds}
        found: Measure = here.recv()
        return found
    except EOFError:
        child.join()
        raise RuntimeError(f"the process of a measure ended with code {child.exitcode} and no result") from None
    finally:
        child.join()


def _stored() -> list[Measure]:
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def _key(measure: Measure) -> tuple[Any, ...]:
    return measure["table"], measure["method"], measure.get("budget"), json.dumps(measure["settings"], sort_keys=True)


def _measures(
    data: Data, kinds: list[str], budgets: tuple[float, ...]
) -> Iterator[tuple[Measure, Callable[[], tuple[np.ndarray, int, str]]]]:
    """What a measure is called, and what makes (decoded rows, bytes, a description)."""
    rows = data.rows
    for budget in budgets if "embstore" in kinds else ():
        for spec, config in ours(rows, budget):
            named = {"table": data.name, "kind": "embstore", "method": spec, "settings": config, "budget": budget}
            yield named, lambda s=spec, c=config, b=budget: _compressed(rows, s, c, b)  # type: ignore[misc]
    for peer in peers.peers(rows, budgets):
        if peer.kind in kinds:
            named = {"table": data.name, "kind": peer.kind, "method": peer.name, "settings": peer.settings}
            yield named, lambda p=peer: (p.decoded(), p.nbytes, p.name)  # type: ignore[misc]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench vectors", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--budgets", nargs="+", type=float, choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--most-seconds", type=float, default=600.0, help="a measure that takes longer is left out")
    given = parser.parse_args(arguments or [])
    folder = Path(os.environ.get("EMBSTORE_TEST_DATA", "../shared/data"))
    FILE.parent.mkdir(exist_ok=True)
    done = {_key(m) for m in _stored() if m.get("limit", given.most_seconds) >= given.most_seconds}
    missing: dict[str, list[str]] = {}
    for name, load in DATA.items():
        data = load(folder)
        if data is None:
            print(f"skipped: no data for {name} in {folder}; set EMBSTORE_TEST_DATA")
            continue
        exact = neighbours(data.rows, data.queries, data.metric)
        asked = _measures(data, given.kinds, tuple(given.budgets)) if name in given.data else ()
        wanted = {_key(named) for named, _ in asked}
        for named, make in _measures(data, list(KINDS), BUDGETS):
            if _key(named) in done:
                continue
            if _key(named) not in wanted:
                missing.setdefault(data.name, []).append(named["method"])
                continue
            start = time.perf_counter()
            found = _finished(lambda d=data, e=exact, m=make: _measured(d, e, m), given.most_seconds)  # type: ignore[misc]
            found = {**named, "metric": data.metric, **found, "seconds": time.perf_counter() - start}
            with FILE.open("a") as lines:
                lines.write(json.dumps(found) + "\n")
            print(
                data.name, found.get("budget", ""), found["method"],
                found.get("reason") or "{bpd:.3f} bpd {error:.3e} {recall:.3f} {seconds:.0f} s".format(**found),
                flush=True,
            )  # fmt: skip
    print(timing.save("vectors", {"tables": tables(_stored(), missing)}))


def _measured(data: Data, exact: np.ndarray, make: Callable[[], tuple[np.ndarray, int, str]]) -> Measure:
    try:
        decoded, nbytes, resolved = make()
    except errors.BudgetError as refused:
        return {"reason": str(refused)}
    return {
        "bpd": 8 * nbytes / data.rows.size, "error": relative_error(decoded, data.rows),
        "recall": recall(decoded, exact, data.queries, data.metric), "resolved": resolved,
    }  # fmt: skip


def tables(measures: list[Measure], missing: dict[str, list[str]] | None = None) -> list[dict[str, Any]]:
    """For each table, budget by budget, ours beside the best peer; all measures; and what was left out, with reasons.

    `missing` names, table by table, measures that were not tried.
    """
    found = []
    for name in sorted({m["table"] for m in measures}):
        own = [m for m in measures if m["table"] == name and "reason" not in m]
        mine, theirs = ([m for m in own if (m["kind"] == "embstore") == ours] for ours in (True, False))
        known = {_key(m) for m in own}
        late = [m for m in measures if m["table"] == name and "limit" in m and _key(m) not in known]
        left_out = {m["method"]: m["reason"] for m in late}
        left_out |= {method: "not run" for method in (missing or {}).get(name, [])}
        row = {"table": name, "metric": own[0]["metric"], "budgets": compare(mine, theirs), "all": own}
        found.append({**row, "left out": left_out})
    return found


def compare(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each budget one of ours, and the least error and best recall of a peer; None where none fits.

    Ours is the one of least error; where that falls short of the best peer's recall, the one of least error that does
    not, if its error is no more than the best peer's.
    """
    found = []
    for budget in BUDGETS:
        own = sorted((r for r in mine if r["budget"] == budget), key=lambda r: r["error"])
        fit = [r for r in theirs if r["bpd"] <= budget * peers.SLACK]
        nearest = min(fit, key=lambda r: r["error"], default=None)
        recalls = max(fit, key=lambda r: r["recall"], default=None)
        good = [
            r for r in own
            if nearest and recalls and r["error"] <= nearest["error"] and r["recall"] >= recalls["recall"] - MAY_MISS
        ]  # fmt: skip
        best = next(iter([*good, *own]), None)
        found.append({"budget": budget, "ours": best, "peer": nearest, "recall": recalls})
    return found
