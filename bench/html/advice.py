"""Which method for which use, per task, with the numbers that speak for it."""

from __future__ import annotations

from dataclasses import dataclass

from .runs import MEASURES
from .summary import Cell, Task, share

NEGLIGIBLE, TOLERABLE = 0.001, 0.01


@dataclass(frozen=True)
class Advice:
    """The pick for one use in one task; `why` holds its numbers, or says why there is no pick."""

    task: str
    use: str
    cell: Cell | None
    why: str


def figures(task: Task, cell: Cell) -> str:
    """Size, quality and the count of runs of a cell, in words."""
    size, auc, sd, loss = cell.mean("ratio"), cell.mean("test_auc"), cell.sd("test_auc"), task.loss(cell)
    parts = [f"{share(size)} of the bytes"] if size is not None else []
    if auc is not None:
        parts.append(f"test AUC {auc:.4f}" + (f" ± {sd:.4f}" if sd is not None else ""))
    if loss is not None:
        parts.append(f"{abs(loss):.4f} {'below' if loss >= 0 else 'above'} the full table")
    n = len(cell.values("test_auc"))
    words = ", ".join([*parts, f"{n} run{'s' * (n != 1)}"])
    base, valid = cell.mean("popularity"), cell.mean("valid_auc")
    if base is not None and valid is not None and valid <= base:
        words += f"; no better than popularity alone (validation AUC {valid:.4f} against {base:.4f})"
    return words


def _smallest(task: Task) -> Advice:
    use = f"smallest at a loss of at most {NEGLIGIBLE}"
    able = [c for c in task.measured("ratio", "test_auc") if c is not task.full]
    if task.full is None:
        return Advice(task.name, use, None, "there is no run of the full table to lose against")
    if not able:
        return Advice(task.name, use, None, "no run of a compressed table has its size and test AUC")
    good = [c for c in able if (task.loss(c) or 0.0) <= NEGLIGIBLE]
    if not good:
        least = min(able, key=lambda c: task.loss(c) or 0.0)
        return Advice(task.name, use, None, f"none; {least.name} loses least: {figures(task, least)}")
    pick = min(good, key=lambda c: (c.mean("ratio") or 0.0, task.loss(c) or 0.0))
    return Advice(task.name, use, pick, figures(task, pick))


def _best(task: Task, size: float) -> Advice:
    use = f"best in {share(size)} of the bytes"
    fit = [c for c in task.measured("ratio", "test_auc") if (c.mean("ratio") or 0.0) <= size * (1 + 1e-9)]
    if not fit:
        return Advice(task.name, use, None, "no method with a result is that small")
    pick = max(fit, key=lambda c: c.mean("test_auc") or 0.0)
    why = figures(task, pick)
    sd = pick.sd("test_auc")
    if sd is not None:
        floor = (pick.mean("test_auc") or 0.0) - sd
        near = [c.name for c in fit if c is not pick and (c.mean("test_auc") or 0.0) >= floor]
        why += f"; within its standard deviation: {', '.join(near)}" if near else ""
    return Advice(task.name, use, pick, why)


def _least(task: Task, use: str, *measures: str) -> Advice:
    """The least of the first measure that any run has, among what loses at most TOLERABLE."""
    compressed = [c for c in task.cells if c is not task.full]
    measure = next((m for m in measures if any(c.mean(m) is not None for c in compressed)), None)
    if measure is None:
        return Advice(task.name, use, None, "no run has such a time")
    good = [c for c in compressed if c.mean(measure) is not None and (task.loss(c) or 0.0) <= TOLERABLE]
    if task.full is not None:
        good = [c for c in good if task.loss(c) is not None]
    if not good:
        return Advice(task.name, use, None, f"nothing measured loses at most {TOLERABLE}")
    pick = min(good, key=lambda c: c.mean(measure) or 0.0)
    whole = task.full.mean(measure) if task.full else None
    about = MEASURES[measure]
    why = f"{about.title} {pick.mean(measure):.3g} {about.unit}"
    why += f" (full table {whole:.3g})" if whole is not None else ""
    return Advice(task.name, use, pick, f"{why}; {figures(task, pick)}")


def advise(task: Task) -> list[Advice]:
    bound = f"at a loss of at most {TOLERABLE}"
    return [
        _smallest(task),
        _best(task, 0.1),
        _best(task, 0.01),
        _least(task, f"fastest lookups {bound}", "serve_128", "serve_1", "serve_10000"),
        _least(task, f"cheapest training {bound}", "seconds_to_best", "seconds", "step_ms"),
    ]
