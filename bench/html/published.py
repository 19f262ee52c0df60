"""The published comparison, `python -m bench published`: page, picture and tables from docs/benchmarks/*.jsonl.

Tables go between their markers in README.md and docs/benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import pdf
from .charts import lost, on_scale, quality_points
from .page import build
from .pdf import MARKS
from .runs import FULL, Material, read
from .summary import Cell, Task, budget_name, share, tasks

ROOT = Path(__file__).parents[2]
NEAR = 0.001  # AUC
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


def _least(task: Task, budget: float) -> str:
    cells = [c for c in task.measured("test_auc") if c is not task.full and c.budget == budget]
    if not cells:
        return "–"
    losses = sorted((task.loss(cell) or 0.0, cell.method) for cell in cells)
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
    """Test AUC against the stored part of the float32 bytes, a panel a task, the methods of a front named."""
    from matplotlib.figure import Figure

    found = [task for task in tasks(material.runs) if task.measured("ratio", "test_auc")]
    figure = Figure(figsize=(4.8 * len(found), 4.4), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _panel(axis, task)
    figure.axes[0].set_ylabel("test AUC")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(axis: Any, task: Task) -> None:
    front = [cell for cell in task.front() if cell is not task.full]
    named = list(dict.fromkeys(cell.method for cell in front))[: len(MARKS)]
    for method in [m for m in task.methods if m not in named] + named:
        cells = [c for c in task.measured("ratio", "test_auc") if c.method == method and c is not task.full]
        style: dict[str, Any] = {"marker": ".", "color": "0.72", "zorder": 1}
        if method in named:
            mark, color = MARKS[named.index(method)]
            style = {"marker": mark, "color": color, "label": method, "zorder": 3, "markersize": 5}
        spread = [c.sd("test_auc") or 0.0 for c in cells]
        axis.errorbar([c.mean("ratio") for c in cells], [c.mean("test_auc") for c in cells], spread, ls="", **style)
    axis.step(
        [c.mean("ratio") for c in front], [c.mean("test_auc") for c in front], ":", color="0.3", where="post", lw=1
    )
    if task.full is not None:
        axis.axhline(task.full.mean("test_auc"), color="0.3", lw=0.8)
    popular = task.full.mean("popularity") if task.full is not None else None
    kept, off = on_scale(quality_points(task), better=1)
    low, high = min(kept), max(kept)
    margin = 0.05 * (high - low) or 0.01
    if popular is not None and low - margin < popular:
        axis.axhline(popular, color="0.6", lw=0.8, ls="--")
    axis.set_ylim(low - margin, high + margin)
    if off:
        axis.text(0.01, 0.01, f"{len(off)} means lie lower", transform=axis.transAxes, fontsize=7, color="0.4")
        axis.set_xlim(left=0.8 * min(p.x for p in quality_points(task) if p not in off))
    axis.set(xscale="log", xlabel="stored bytes, part of float32")
    axis.set_title(_title(task), parse_math=False)
    axis.xaxis.set_major_formatter(lambda value, _: share(value))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right", title="on the front")


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
