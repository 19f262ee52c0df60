"""The published comparison, `python -m bench published`: page, picture and tables from docs/benchmarks/*.jsonl.

Times are those of docs/benchmarks/times/*.jsonl, if any. Tables go between their markers in README.md and
docs/benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import pdf
from .charts import lost
from .page import build
from .pdf import MARKS
from .runs import FULL, Material, read, timed_by
from .summary import Cell, Task, budget_name, share, tasks

ROOT = Path(__file__).parents[2]
NEAR = 0.001  # AUC
# Of the picture: how far it goes down and at least up, and how many methods of a budget it names.
LOWEST, HIGHEST, BEST = -0.12, 0.008, 2
BEGIN, END = "<!-- {}: written by `python -m bench published` -->\n", "<!-- end of {} -->\n"


def best(material: Material) -> str:
    """Rows of budgets: of each task the method that loses least, its loss, and how many are within 0.001 of it."""
    found = tasks(material.runs)
    text = "| of the float32 bytes | " + " | ".join(_title(task) for task in found) + " |\n"
    text += "|---" * (len(found) + 1) + "|\n"
    text += "| 100 % | " + " | ".join(f"AUC {_full(task).mean('test_auc'):.4f}" for task in found) + " |\n"
    for budget in sorted({b for task in found for b in task.budgets if b is not None}, reverse=True):
        text += f"| {budget_name(budget)} | " + " | ".join(_least(task, budget) for task in found) + " |\n"
    return text


def _title(task: Task) -> str:
    return task.full.runs[0].data if task.full else task.name


def _full(task: Task) -> Cell:
    if task.full is None:
        raise ValueError(f"{task.name} has no run of {FULL}")
    return task.full


def _by_loss(task: Task, budget: float) -> list[tuple[float, str]]:
    """Losses and methods of a budget, the least first."""
    cells = [c for c in task.measured("test_auc") if c is not task.full and c.budget == budget]
    return sorted((task.loss(cell) or 0.0, cell.method) for cell in cells)


def _least(task: Task, budget: float) -> str:
    losses = _by_loss(task, budget)
    if not losses:
        return "–"
    near = sum(loss <= losses[0][0] + NEAR for loss, _ in losses) - 1
    others = f", {near} more within {NEAR:g}" if near else ""
    return f"`{losses[0][1]}` {_signed(losses[0][0])}{others}"


def _signed(loss: float) -> str:
    """A change of AUC: a loss is negative."""
    text = lost(loss)
    return text if text.startswith("+") else f"−{text}"


def losses(task: Task) -> str:
    """Rows of methods, the least loss at the largest budget first: change of test AUC, ± over seeds, by budget."""
    budgets = [b for b in task.budgets if b is not None]

    def order(method: str) -> tuple[float, ...]:
        cells = [task.cell(method, b) for b in budgets]
        return tuple(9.0 if c is None or (loss := task.loss(c)) is None else loss for c in cells)

    text = "| method | " + " | ".join(budget_name(b) for b in budgets) + " |\n" + "|---" * (len(budgets) + 1) + "|\n"
    for method in sorted(task.methods, key=order):
        text += f"| `{method}` | " + " | ".join(_change(task, task.cell(method, b)) for b in budgets) + " |\n"
    return text


def _change(task: Task, cell: Cell | None) -> str:
    loss = task.loss(cell) if cell is not None else None
    if cell is None or loss is None:
        return ""
    sd = cell.sd("test_auc")
    return _signed(loss) + ("" if sd is None else f" ± {sd:.4f}")


def picture(material: Material, path: Path) -> None:
    """Change of test AUC against the stored part of the float32 bytes, a panel a task, the best methods named."""
    from matplotlib.figure import Figure

    found = [task for task in tasks(material.runs) if task.full and task.measured("ratio", "test_auc")]
    orders = [_by_loss(task, b) for task in found for b in task.budgets if b is not None]
    places = [[method for order in orders for _, method in order[at : at + 1]] for at in range(BEST)]
    named = list(dict.fromkeys(name for each in places for name in _often(each)))[: len(MARKS)]
    figure = Figure(figsize=(3.9 * len(found) + 1.6, 4.2), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    marks: dict[str, Any] = {}
    for axis, task in zip(axes, found, strict=True):
        _panel(axis, task, named, marks)
    gains = [(c.sd("test_auc") or 0.0) - (task.loss(c) or 0.0) for task in found for c in task.measured("test_auc")]
    axes[0].set_ylim(LOWEST, max(HIGHEST, *gains) + 0.001)  # shared by all
    axes[0].set_ylabel("change of test AUC")
    handles = [marks[method] for method in named if method in marks]
    figure.legend(handles, named, loc="outside right upper", fontsize=8, title="best somewhere")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _often(names: Sequence[str]) -> list[str]:
    """Names, the most frequent first."""
    return [name for name, _ in collections.Counter(names).most_common()]


def _panel(axis: Any, task: Task, named: Sequence[str], marks: dict[str, Any]) -> None:
    lower = 0
    for method in [m for m in task.methods if m not in named] + list(named):
        cells = [c for c in task.measured("ratio", "test_auc") if c.method == method and c is not task.full]
        cells.sort(key=lambda c: c.mean("ratio") or 0.0)
        change = [-(task.loss(c) or 0.0) for c in cells]
        lower += sum(value < LOWEST for value in change)
        style: dict[str, Any] = {"marker": ".", "color": "0.75", "zorder": 1, "ls": "", "lw": 0.8}
        if method in named:
            mark, color = MARKS[named.index(method)]
            style = {"marker": mark, "color": color, "zorder": 3, "ls": "-", "lw": 0.8, "markersize": 5}
        spread = [c.sd("test_auc") or 0.0 for c in cells]
        marks[method] = axis.errorbar([c.mean("ratio") for c in cells], change, spread, **style)
    axis.axhline(0, color="0.3", lw=0.8)
    full = _full(task)
    popular = (full.mean("popularity") or 0.0) - (full.mean("test_auc") or 0.0)
    if popular > LOWEST:
        axis.axhline(popular, color="0.5", lw=0.8, ls="--")
        place = axis.get_yaxis_transform()
        axis.text(0.01, popular, "popularity alone", transform=place, fontsize=7, color="0.4", va="bottom")
    if lower:
        axis.text(0.01, 0.01, f"{lower} means lie lower", transform=axis.transAxes, fontsize=7, color="0.4")
    axis.set(xscale="log", xlabel="stored bytes, part of float32")
    axis.set_title(f"{_title(task)}, AUC {full.mean('test_auc'):.4f}", parse_math=False)
    axis.set_xticks([b for b in task.budgets if b is not None])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(lambda value, _: share(value))
    axis.grid(alpha=0.3)


def filled(text: str, name: str, table: str, where: str) -> str:
    """`text` with `table` between the markers of `name`; SystemExit where they are not there once, in order."""
    begin, end = BEGIN.format(name), END.format(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        sys.exit(f"{where} must have the lines {begin.strip()!r} and {end.strip()!r}, in this order; put them back")
    return text[: text.index(begin) + len(begin)] + table + text[text.index(end) :]


def texts(material: Material, root: Path) -> dict[Path, str]:
    """The files with tables as they should be."""
    summary, page = root / "README.md", root / "docs" / "benchmarks" / "README.md"
    found = {summary: filled(summary.read_text(encoding="utf-8"), "best methods", best(material), summary.name)}
    text = page.read_text(encoding="utf-8")
    for task in tasks(material.runs):
        text = filled(text, _title(task), losses(task), page.name)
    return {**found, page: text}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """0 when all was written, or is current; 1 where `--check` finds that it is not."""
    parser = argparse.ArgumentParser(
        prog="python -m bench published", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a table is not what the runs say")
    given = parser.parse_args(arguments)
    folder = root / "docs" / "benchmarks"
    material = read(sorted(folder.glob("*.jsonl")))
    if times := sorted((folder / "times").glob("*.jsonl")):
        material = timed_by(material, times)
    wanted = texts(material, root)
    if given.check:
        old = [file for file, text in wanted.items() if file.read_text(encoding="utf-8") != text]
        for file in old:
            print(
                f"{file.relative_to(root)} is not what the runs say; run `python -m bench published`", file=sys.stderr
            )
        return 1 if old else 0
    for file, text in wanted.items():
        file.write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(build(material)[0], encoding="utf-8")
    if not pdf.available():
        print("no picture and no PDF: they need matplotlib", file=sys.stderr)
        return 0
    picture(material, folder / "comparison.png")
    return 0
