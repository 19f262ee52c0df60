"""The table that `python -m bench ctr` prints: means over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np

MAY_LOSE, LARGE = 0.01, 0.5
FULL = "float32"
COLUMNS = (
    ("stored", "ratio", "{:.4f}", 1.0),
    ("valid AUC", "valid_auc", "{:.4f}", 1.0),
    ("test AUC", "test_auc", "{:.4f}", 1.0),
    ("log-loss", "test_log_loss", "{:.4f}", 1.0),
    ("calibration", "test_calibration", "{:.3f}", 1.0),
    ("step ms", "step_ms", "{:.1f}", 1.0),
    ("train MB", "nbytes_training", "{:.1f}", 2.0**-20),
    ("peak MB", "peak_mb", "{:.0f}", 1.0),
    ("seconds", "seconds", "{:.0f}", 1.0),
)


def summary(runs: list[dict[str, Any]]) -> str:
    """A line for each model, method and budget, in the order of `runs`, and below what could not be reached."""
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        budget = "" if run["budget"] is None else f"{run['budget']:g}"
        cells.setdefault((run["model"], run["method"], budget), []).append(run)
    rows = [("model", "method", "budget", *(title for title, *_ in COLUMNS), "seeds", "us a batch of 1 / 128 / 10000")]
    refused = []
    for (model, method, budget), found in cells.items():
        if "reason" in found[0]:
            refused.append(f"{model} {method} {budget}: {found[0]['reason']}")
            continue
        values = [_mean(found, name, form, times) for _, name, form, times in COLUMNS]
        served = " / ".join(f"{np.mean([run['serve'][size] for run in found]):.0f}" for size in ("1", "128", "10000"))
        rows.append((model, method, budget, *values, str(len(found)), served))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    if runs and (share := _harness(runs)) is not None:
        lines.append(f"outside model and method: {100 * share:.1f} % of a step, the median over runs")
    return "\n".join([*lines, *bounds(runs), *refused])


def bounds(runs: list[dict[str, Any]]) -> list[str]:
    """What misses one of two bounds, or that nothing does.

    The mean validation AUC of a method at its largest budget up to one half is within 0.01 of the full table's, and no
    run is at or below the popularity of ids.
    """
    ours = [run for run in runs if "reason" not in run and run["valid_auc"] is not None]
    lines = []
    for model, data in dict.fromkeys((run["model"], run["data"]) for run in ours):
        cells: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
        for run in ours:
            if (run["model"], run["data"]) == (model, data):
                cells.setdefault((run["method"], run["budget"]), []).append(run)
        full = cells.pop((FULL, None), [])
        for method in dict.fromkeys(method for method, _ in cells):
            budgets = [b for m, b in cells if m == method and b is not None and b <= LARGE]
            if full and budgets:
                lost = np.mean([run["valid_auc"] for run in full])
                lost -= np.mean([run["valid_auc"] for run in cells[method, max(budgets)]])
                if lost > MAY_LOSE:
                    lines.append(f"{model} {data}: {method} at {max(budgets):g} is {lost:.4f} below the full table")
            for budget in budgets:
                found = [run for run in cells[method, budget] if run["popularity"] is not None]
                if any(run["valid_auc"] <= run["popularity"] for run in found):
                    lines.append(f"{model} {data}: {method} at {budget:g} is not above popularity")
    if lines or not ours:
        return lines
    return [f"all within {MAY_LOSE} of the full table at their largest budget, and above popularity"]


def _mean(runs: list[dict[str, Any]], name: str, form: str, times: float) -> str:
    values = [run[name] for run in runs if run[name] is not None]
    return form.format(times * float(np.mean(values))) if values else "-"


def _harness(runs: list[dict[str, Any]]) -> float | None:
    shares = [run["harness_ms"] / run["step_ms"] for run in runs if run.get("step_ms")]
    return float(np.median(shares)) if shares else None
