"""The same numbers as a PDF by matplotlib, for those who cannot print the page from a browser."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .advice import advise
from .charts import by_loss, loss_class, loss_words, lost, on_scale, quality_points
from .page import COSTS
from .runs import MEASURES, Material
from .summary import Task, agreements, budget_name, share, tasks

A4 = (8.27, 11.69)
HEAT = {"h0": "#d3e9d9", "h1": "#e6eef5", "h2": "#f5ecc8", "h3": "#f3d3a4", "h4": "#dd9468", "h5": "#8f3a2b"}
# Marks in the order in which methods get them, in the colours of the page.
MARKS = (
    ("o", "#0f5ea8"), ("s", "#a8480a"), ("^", "#0a7358"), ("D", "#8a2f78"), ("v", "#6a5a00"), ("X", "#b02a37"),
    ("P", "#3d5a6c"), ("*", "#5b3fa6"),
)  # fmt: skip
LINES, LEAST = 62, 40


def available() -> bool:
    try:
        import matplotlib.backends.backend_pdf  # noqa: F401
    except ImportError:
        return False
    return True


def write(material: Material, path: Path) -> None:
    """Words first, then for each task quality against bytes, the heat map and the costs."""
    from matplotlib.backends.backend_pdf import PdfPages

    found = tasks(material.runs)
    with PdfPages(path) as pages:
        for page in _words(material, found):
            pages.savefig(page)
        for task in found:
            if task.measured("ratio", "test_auc"):
                pages.savefig(_quality(task))
            if task.full is not None and task.methods:
                for start in range(0, len(task.methods), 40):
                    pages.savefig(_heat(task, by_loss(task)[start : start + 40]))
            costs = _costs(task)
            if costs is not None:
                pages.savefig(costs)


def _words(material: Material, found: Sequence[Task]) -> list[Any]:
    from matplotlib.figure import Figure

    lines = ["Compressed embedding tables compared", ""]
    trained = sum(r.reason is None for r in material.runs)
    lines += [f"{trained} trainings from {', '.join(material.files)}. ± is one sample standard deviation over seeds."]
    lines += material.notes
    for task in found:
        lines += ["", task.name]
        for a in advise(task):
            lines.append(f"– {a.use}: {a.cell.name if a.cell else 'no pick'}; {a.why}.")
    for group in (g for g in agreements(found) if g.known):
        each = "; ".join(f"{a} and {b} {value:.2f} ({pairs} pairs)" for a, b, value, pairs in group.known)
        lines += ["", f"Kendall's tau of test AUC over {group.over}: {each}."]
    lines += [
        "",
        "Measured:",
        *sorted({r.environment or "the lines do not say" for r in material.runs if r.reason is None}),
    ]
    wrapped = [part for line in lines for part in textwrap.wrap(line, 96, subsequent_indent="   ") or [""]]
    made = []
    for start in range(0, len(wrapped), LINES):
        figure = Figure(figsize=A4)
        figure.text(0.07, 0.95, "\n".join(wrapped[start : start + LINES]), va="top", fontsize=9, parse_math=False)
        made.append(figure)
    return made


def _quality(task: Task) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(A4[1], A4[0]), layout="constrained")
    axis = figure.subplots()
    front = task.front()
    own = list(dict.fromkeys([c.method for c in front] + [c.method for c in task.cells]))[: len(MARKS)]
    for method in dict.fromkeys(c.method for c in task.cells):
        cells = sorted(
            (c for c in task.measured("ratio", "test_auc") if c.method == method), key=lambda c: c.mean("ratio") or 0
        )
        style: dict[str, Any] = {"marker": ".", "color": "0.7", "zorder": 1}
        if method in own:
            mark, color = MARKS[own.index(method)]
            style = {"marker": mark, "color": color, "label": method, "zorder": 3}
        spread = [c.sd("test_auc") or 0.0 for c in cells]
        axis.errorbar(
            [c.mean("ratio") for c in cells], [c.mean("test_auc") for c in cells], spread, ls="", capsize=2, **style
        )
    axis.step([c.mean("ratio") for c in front], [c.mean("test_auc") for c in front], ":k", where="post", label="front")
    for cell in front:
        place = (cell.mean("ratio"), cell.mean("test_auc"))
        first = cell is front[0]
        axis.annotate(
            cell.method, place, (4 if first else -4, 6), textcoords="offset points", ha="left" if first else "right",
            fontsize=8, parse_math=False,
        )  # fmt: skip
    low, high, off = _range(task)
    axis.set_ylim(low, high)
    if off:
        axis.text(0.995, 0.01, f"{off} means lie lower", transform=axis.transAxes, ha="right", fontsize=8, color="0.4")
    axis.set(xscale="log", xlabel="stored bytes, part of float32", ylabel="test AUC")
    axis.set_title(task.name, parse_math=False)
    axis.xaxis.set_major_formatter(lambda value, _: share(value))
    figure.legend(fontsize=8, loc="outside lower center", ncols=9)
    axis.grid(alpha=0.3)
    return figure


def _range(task: Task) -> tuple[float, float, int]:
    """Where the axis of quality begins and ends, and how many means lie lower: those far worse than most."""
    kept, off = on_scale(quality_points(task), better=1)
    margin = 0.05 * (max(kept) - min(kept)) or 0.01
    return min(kept) - margin, max(kept) + margin, len(off)


def _heat(task: Task, methods: Sequence[str]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=A4)
    axis = figure.add_axes((0.25, 1 - 0.12 - 0.021 * len(methods), 0.65, 0.021 * len(methods)))
    for j, method in enumerate(methods):
        for i, budget in enumerate(task.budgets):
            cell = task.cell(method, budget)
            loss = task.loss(cell) if cell is not None else None
            if loss is not None:
                level = loss_class(loss)
                axis.add_patch(Rectangle((i, j), 1, 1, facecolor=HEAT[level], edgecolor="w"))
                axis.text(
                    i + 0.5,
                    j + 0.5,
                    lost(loss),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="w" if level == "h5" else "k",
                )
    axis.set(xlim=(0, len(task.budgets)), ylim=(len(methods), 0))
    axis.set_xticks([i + 0.5 for i in range(len(task.budgets))], [budget_name(b) for b in task.budgets])
    axis.set_yticks([j + 0.5 for j in range(len(methods))], methods, fontsize=8, parse_math=False)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    swatches = [Rectangle((0, 0), 1, 1, facecolor=color) for color in HEAT.values()]
    axis.legend(
        swatches, loss_words(), fontsize=8, ncols=6, loc="upper center", bbox_to_anchor=(0.4, -0.01), frameon=False
    )
    axis.set_title(
        f"Test AUC lost against the full table: {task.name}; blank: not reached", fontsize=10, parse_math=False
    )
    return figure


def _costs(task: Task) -> Any | None:
    from matplotlib.figure import Figure

    known = [m for m in COSTS if task.measured(m)]
    if not known:
        return None
    figure = Figure(figsize=A4, layout="constrained")
    for measure, axis in zip(known, figure.subplots((len(known) + 1) // 2, 2, squeeze=False).flat, strict=False):
        budget, cells = task.costs(measure)
        cells = cells[:LEAST][::-1]
        spread = [c.sd(measure) or 0.0 for c in cells]
        axis.barh([c.method for c in cells], [c.mean(measure) for c in cells], xerr=spread, color="#4c7fb5")
        axis.set_title(f"{MEASURES[measure].title}, {MEASURES[measure].unit}, at {budget_name(budget)}", fontsize=9)
        axis.tick_params(labelsize=6)
    for axis in figure.axes[len(known) :]:
        axis.remove()
    figure.suptitle(f"What it costs: {task.name}; at most the {LEAST} least of each", fontsize=10, parse_math=False)
    return figure
