"""Means over seeds, fronts, ranks and recommendations: every number of the page, and nothing of its looks."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from .runs import FULL, Run, plain

# Settings that a sweep may choose for each method and budget; most methods have no stages that the last is of.
CHOSEN = ("lr", "embedding_lr", "stage_epochs")


def share(value: float) -> str:
    """A part of the float32 bytes in percent, to three digits."""
    return f"{100 * value:.3g} %"


def budget_name(budget: float | None) -> str:
    if budget is None:
        return "no budget"
    return f"{100 * budget:g} %" if budget <= 1 else f"{budget:,.0f} bytes"


@dataclass(frozen=True)
class Cell:
    """The runs of one method at one budget, one per seed."""

    method: str
    budget: float | None
    runs: tuple[Run, ...]

    def values(self, measure: str) -> list[float]:
        return [r.measures[measure] for r in self.runs if r.reason is None and measure in r.measures]

    def mean(self, measure: str) -> float | None:
        values = self.values(measure)
        return math.fsum(values) / len(values) if values else None

    def sd(self, measure: str) -> float | None:
        """Sample standard deviation (n - 1); None for fewer than two runs."""
        values = self.values(measure)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def seeds(self) -> list[int]:
        return sorted({r.seed for r in self.runs if r.seed is not None and r.reason is None})

    @property
    def reason(self) -> str | None:
        """Why there is no result; None where at least one run has one."""
        reasons = [r.reason for r in self.runs if r.reason is not None]
        return reasons[0] if len(reasons) == len(self.runs) else None

    @property
    def failed(self) -> int:
        return sum(r.reason is not None for r in self.runs)

    @property
    def name(self) -> str:
        return self.method if self.budget is None else f"{self.method} at {budget_name(self.budget)}"


@dataclass(frozen=True)
class Task:
    """One data set, model and settings: within it methods are comparable."""

    name: str
    settings: str
    cells: tuple[Cell, ...]
    full: Cell | None

    @property
    def budgets(self) -> list[float | None]:
        found = {c.budget for c in self.cells if c is not self.full}
        return sorted(found, key=lambda b: math.inf if b is None else b, reverse=True)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(c.method for c in self.cells if c is not self.full))

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for c in self.cells for seed in c.seeds})

    def cell(self, method: str, budget: float | None) -> Cell | None:
        return next(
            (c for c in self.cells if c is not self.full and (c.method, c.budget) == (method, budget)), None
        )  # fmt: skip

    def loss(self, cell: Cell) -> float | None:
        """Test AUC of the full table less that of the cell, means of all their runs."""
        mine, whole = cell.mean("test_auc"), self.full.mean("test_auc") if self.full else None
        return None if mine is None or whole is None else whole - mine

    def measured(self, *measures: str) -> list[Cell]:
        return [c for c in self.cells if all(c.mean(m) is not None for m in measures)]

    def costs(self, measure: str) -> tuple[float | None, list[Cell]]:
        """The budget at which most methods have the measure, its cells and the full table's, the least first."""
        counts = {b: 0 for b in self.budgets}
        for cell in self.measured(measure):
            if cell is not self.full:
                counts[cell.budget] += 1
        budget = max(counts, key=lambda b: (counts[b], -abs(math.log((b or 1) / 0.1))), default=None)
        cells = [c for c in self.measured(measure) if c is self.full or c.budget == budget]
        return budget, sorted(cells, key=lambda c: c.mean(measure) or 0.0)

    def front(self) -> list[Cell]:
        """Cells of which none is both no larger and no worse, and better in one; from small to large."""
        cells = self.measured("ratio", "test_auc")
        points = [(c.mean("ratio") or 0.0, c.mean("test_auc") or 0.0) for c in cells]
        return [cells[i] for i in sorted(pareto(points), key=lambda i: points[i])]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, quality) that no other dominates."""
    best, found = -math.inf, []
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    for cost, same in itertools.groupby(order, key=lambda i: points[i][0]):
        level = list(same)
        top = points[level[0]][1]
        if top > best:
            found += [i for i in level if points[i] == (cost, top)]
            best = top
    return found


def _variants(runs: list[Run]) -> Callable[[Run], str]:
    """Names: the method, and its config where one budget and seed were run with several."""
    configs: dict[tuple[Any, ...], set[str]] = {}
    for run in runs:
        configs.setdefault((run.method, run.budget, run.seed), set()).add(run.config)
    several = {method for (method, _, _), found in configs.items() if len(found) > 1}

    def name(run: Run) -> str:
        config = json.loads(run.config)
        if run.method not in several or not config:
            return run.method
        return f"{run.method} ({', '.join(f'{k}={v}' for k, v in config.items())})"

    return name


def _settings(this: str, others: Iterable[str]) -> str:
    """The settings in which `this` differs from the others."""
    mine, rest = json.loads(this), [json.loads(o) for o in others]
    differ = [k for k in mine if any(k not in o or o[k] != mine[k] for o in rest)]
    words = [f"{k} {plain(mine[k])}" for k in differ if not isinstance(mine[k], (list, dict, NoneType))]
    return ", ".join([*words[:3], *(["…"] if len(words) > 3 else [])]) or "other settings unset"


def _groups(runs: list[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Runs that may be compared: of one data set, model and settings.

    Learning rates and lengths of stages that were chosen for each method and budget are no difference; several of one
    run are.
    """
    loose: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        rest = {k: v for k, v in json.loads(run.settings).items() if k not in CHOSEN}
        loose.setdefault((run.data, run.model, json.dumps(rest)), []).append(run)
    found: dict[tuple[str, str, str], list[Run]] = {}
    for (data, model, rest), own in loose.items():
        several = len({run.settings for run in own}) > 1
        if several and len({(r.method, r.budget, r.config, r.seed) for r in own}) == len(own):
            chosen = {**json.loads(rest), **_chosen([json.loads(run.settings) for run in own])}
            found[data, model, json.dumps(chosen, sort_keys=True)] = own
            continue
        for run in own:
            found.setdefault((data, model, run.settings), []).append(run)
    return found


def _chosen(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that may differ: what all have, or that each method and budget has its own."""
    found: dict[str, Any] = {}
    for names in (("lr", "embedding_lr"), ("stage_epochs",)):
        if len({json.dumps([each.get(name) for name in names]) for each in settings}) > 1:
            found[names[0]] = "by method and budget"
        else:
            found |= {name: settings[0][name] for name in names if name in settings[0]}
    return found


def tasks(runs: list[Run]) -> list[Task]:
    """Runs by data set, model and settings, in order of appearance."""
    groups = _groups(runs)
    found = []
    for (data, model, settings), own in groups.items():
        others = [s for d, m, s in groups if (d, m) == (data, model) and s != settings]
        name = f"{data}, {model}" + (f", {_settings(settings, others)}" if others else "")
        variant = _variants(own)
        cells: dict[tuple[str, float | None], list[Run]] = {}
        for run in own:
            cells.setdefault((variant(run), run.budget), []).append(run)
        made = tuple(Cell(method, budget, tuple(of)) for (method, budget), of in cells.items())
        whole = [c for c in made if c.runs[0].method == FULL and c.budget is None and c.mean("test_auc") is not None]
        full = max(whole, key=lambda c: len(c.values("test_auc")), default=None)
        found.append(Task(name, settings, made, full))
    return found


# A ranking: at each budget the quality of each method.
Ranking = dict[float | None, dict[str, float]]


def ranking(task: Task, seed: int | None = None) -> Ranking:
    """Mean test AUC by budget and method; of one seed where one is given."""
    found: Ranking = {}
    for cell in task.cells:
        if cell is task.full:
            continue
        runs = tuple(r for r in cell.runs if seed is None or r.seed == seed)
        mean = Cell(cell.method, cell.budget, runs).mean("test_auc") if runs else None
        if mean is not None:
            found.setdefault(cell.budget, {})[cell.method] = mean
    return found


@dataclass(frozen=True)
class Agreement:
    """Rankings by name, and tau of each pair with how many pairs of methods it rests on; None where undefined."""

    over: str
    names: tuple[str, ...]
    taus: tuple[tuple[tuple[float, int] | None, ...], ...]

    @property
    def known(self) -> list[tuple[str, str, float, int]]:
        """Every pair of rankings that has a tau: the two names, tau, pairs of methods."""
        pairs = itertools.combinations(range(len(self.names)), 2)
        return [(self.names[j], self.names[i], *found) for j, i in pairs if (found := self.taus[i][j]) is not None]


def agreements(found: Sequence[Task]) -> list[Agreement]:
    """How far tasks order methods alike, and within each task its seeds."""
    groups = [("data sets and models, means over seeds", [(t.name, ranking(t)) for t in found])]
    groups += [(f"seeds of {t.name}", [(f"seed {s}", ranking(t, s)) for s in t.seeds]) for t in found]
    return [
        Agreement(title, tuple(n for n, _ in own), tuple(tuple(tau(a, b) for _, b in own) for _, a in own))
        for title, own in groups
    ]


def tau(a: Ranking, b: Ranking) -> tuple[float, int] | None:
    """Kendall's tau-b over pairs of methods at the same budget, and how many pairs; None if undefined."""
    agree = pairs = untied_a = untied_b = 0
    for budget in a.keys() & b.keys():
        common = sorted(a[budget].keys() & b[budget].keys())
        for one, two in itertools.combinations(common, 2):
            first, second = a[budget][one] - a[budget][two], b[budget][one] - b[budget][two]
            sign_a, sign_b = (first > 0) - (first < 0), (second > 0) - (second < 0)
            agree += sign_a * sign_b
            untied_a += sign_a != 0
            untied_b += sign_b != 0
            pairs += 1
    if not untied_a or not untied_b:
        return None
    return agree / math.sqrt(untied_a * untied_b), pairs
