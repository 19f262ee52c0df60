"""Whether every module of `embstore.nn` learns: validation AUC by data set, budget and seed.

    python -m bench learn [--data ml-1m frappe] [--methods int8 …] [--budgets 0.5 …] [--seeds 0 1 2]

One JSON line per run is appended to bench/results/learn.jsonl, and a run that is there is not done again. Data, model
and optimizer are the same for all: DLRM at dim 16, Adam, one thread, stopped early on validation AUC. `report` prints
the means over seeds and what falls short of the two bounds: within 0.01 of the full table at the largest budget
reached, and above the popularity baseline at every one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import embstore.nn as enn
from embstore import errors

from . import ctr_data, ctr_run, metrics, timing

FULL = "float32"
DIM = 16
BUDGETS = (0.5, 0.25, 0.1, 0.05, 0.01)
SEEDS = (0, 1, 2)
MAY_LOSE = 0.01
# Most epochs; the full table is past its best long before methods whose rows are shared are.
SETTINGS: dict[str, dict[str, Any]] = {
    "ml-1m": {"model": "dlrm", "batch": 16384, "lr": 0.01, "epochs": 12},
    "frappe": {"model": "dlrm", "batch": 4096, "lr": 0.005, "epochs": 8},
}
FILE = timing.RESULTS / "learn.jsonl"

Run = dict[str, Any]


def train(data: ctr_data.Clicks, method: str, budget: float | None, seed: int, settings: Run, **config: Any) -> Run:
    """One training; `reason` in place of measures where the method cannot reach the budget."""
    sizes = data.field_sizes
    try:
        module, outcome, training = ctr_run.fit(data, method, budget, seed, {**settings, "dim": DIM}, **config)
    except errors.BudgetError as refused:
        return {"reason": str(refused)}
    return {
        "ratio": module.nbytes_inference() / (4 * DIM * sum(sizes)),
        "training_ratio": training / (12 * DIM * sum(sizes)),
        **dataclasses.asdict(outcome),
    }


def _key(run: Run) -> tuple[Any, ...]:
    return run["data"], run["method"], run["budget"], run["seed"], json.dumps(run["settings"], sort_keys=True)


def _stored() -> list[Run]:
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def _wanted(data: list[str], methods: list[str], budgets: list[float], seeds: list[int]) -> Iterator[Run]:
    """Runs in the order of their use: the full table first, one seed of all before the next."""
    for seed in seeds:
        for name in data:
            shared = {"data": name, "seed": seed, "settings": SETTINGS[name]}
            yield {"method": FULL, "budget": None, **shared}
            for method in methods:
                for budget in budgets if method != FULL else ():
                    yield {"method": method, "budget": budget, **shared}


def report(runs: list[Run]) -> str:
    """Mean validation AUC over seeds, the differences to the full table, and what misses its bound."""
    lines = []
    for name in sorted({run["data"] for run in runs}):
        ours = [r for r in runs if r["data"] == name and r["settings"] == SETTINGS[name] and "reason" not in r]
        by: dict[tuple[str, float | None], list[float]] = {}
        for run in ours:
            by.setdefault((run["method"], run["budget"]), []).append(run["valid_auc"])
        base = next((r["popularity"] for r in ours), float("nan"))
        full = float(np.mean(by.get((FULL, None), [float("nan")])))
        lines.append(f"{name}: full table {full:.4f} ({len(by.get((FULL, None), []))} seeds), popularity {base:.4f}")
        for method in dict.fromkeys(m for m, _ in by if m != FULL):
            largest = max(b for m, b in by if m == method and b is not None)
            for budget in sorted((b for m, b in by if m == method and b is not None), reverse=True):
                found = by[method, budget]
                mean = float(np.mean(found))
                faults = ["  MORE THAN 0.01 BELOW THE FULL TABLE"] * (budget == largest and mean < full - MAY_LOSE)
                faults += ["  NOT ABOVE POPULARITY"] * (min(found) <= base)
                ratio = next(r["ratio"] for r in ours if (r["method"], r["budget"]) == (method, budget))
                lines.append(
                    f"  {method:10} budget {budget:<5g} stored {ratio:.4f}  AUC {mean:.4f} {mean - full:+.4f}  "
                    f"from {min(found):.4f} to {max(found):.4f}, {len(found)} seeds{''.join(faults)}"
                )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench learn", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=sorted(SETTINGS), default=None)
    parser.add_argument("--methods", nargs="+", choices=enn.names(), default=[n for n in enn.names() if n != FULL])
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    given = parser.parse_args(arguments)
    names = given.data or list(ctr_data.available())
    if not names:
        print("skipped: no data; set EMBSTORE_TEST_DATA to a folder that has rec/ml-1m and ctr/frappe")
        return
    # More threads than free cores make these small models slower by far; run processes side by side instead.
    torch.set_num_threads(1)
    done = {_key(run) for run in _stored()}
    loaded: dict[str, ctr_data.Clicks] = {}
    FILE.parent.mkdir(exist_ok=True)
    for run in _wanted(names, given.methods, given.budgets, given.seeds):
        if _key(run) in done:
            continue
        name = run["data"]
        data = loaded[name] = loaded.get(name) or ctr_data.load(name)
        popularity = metrics.auc(data.labels[data.valid], data.popularity(data.valid))
        found = train(data, run["method"], run["budget"], run["seed"], run["settings"])
        with FILE.open("a") as lines:
            lines.write(json.dumps({**run, "popularity": popularity, **found}) + "\n")
        print(
            run["data"],
            run["method"],
            run["budget"],
            run["seed"],
            found.get("reason") or found["valid_auc"],
            flush=True,
        )
    print(report(_stored()))
