"""Tables of the page: shown rounded, kept whole as CSV in a link."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .runs import MEASURES, Run, plain
from .summary import Cell, Task, budget_name, share
from .svg import el

Value = str | float | int | None


def shown(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


@dataclass(frozen=True)
class Column:
    title: str
    show: Callable[[Any], str] = shown


@dataclass(frozen=True)
class Table:
    """`name` is that of its CSV file; rows hold whole values, None where there is none."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]

    def csv(self) -> str:
        """Titles and rows; numbers as Python reads them back to the same value."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([c.title for c in self.columns])
        writer.writerows(
            [["" if v is None else repr(v) if isinstance(v, float) else v for v in row] for row in self.rows]
        )
        return out.getvalue()

    def link(self) -> str:
        data = base64.b64encode(self.csv().encode()).decode()
        words = f"{self.name}.csv"
        return el("p", el("a", words, href=f"data:text/csv;charset=utf-8;base64,{data}", download=words), class_="csv")

    def html(self) -> str:
        """The table in a box that scrolls by itself where it is too wide, and the link to its CSV."""
        used = [i for i in range(len(self.columns)) if any(row[i] is not None for row in self.rows)]
        head = el("tr", *(el("th", escape(self.columns[i].title), scope="col") for i in used))
        body = []
        for row in self.rows:
            cells = []
            for i in used:
                number = isinstance(row[i], (int, float))
                content = "" if row[i] is None else escape(self.columns[i].show(row[i]))
                if i == 0:
                    cells.append(el("th", content, scope="row"))
                else:
                    cells.append(el("td", content, class_="number" if number else None))
            body.append(el("tr", *cells))
        table = el("table", el("thead", head), el("tbody", *body))
        return el("div", table, class_="wide", tabindex="0", role="region", aria_label=self.name) + self.link()


def auc(value: float) -> str:
    return f"{value:.4f}"


MEANT = [m for m in MEASURES if m != "popularity"]


def _titled(measure: str) -> str:
    about = MEASURES[measure]
    return f"{about.title}, {about.unit}" if about.unit else about.title


def _show(measure: str) -> Callable[[Any], str]:
    if measure in ("test_auc", "valid_auc", "test_log_loss", "valid_log_loss", "test_calibration"):
        return auc
    return share if measure == "ratio" else shown


def _fact(cell: Cell) -> str | None:
    if cell.reason is None and not cell.failed:
        return None
    return cell.reason or f"{cell.failed} of {len(cell.runs)} runs failed: " + next(
        r.reason for r in cell.runs if r.reason
    )


def means(task: Task, name: str) -> Table:
    """Every cell: means over seeds of all measures, the spread of test AUC, loss, and why there is none."""
    columns = [Column("method"), Column("budget"), Column("runs"), Column("seeds")]
    columns += [Column("test AUC lost", auc), Column("standard deviation of test AUC", auc)]
    columns += [Column(_titled(m), _show(m)) for m in MEANT] + [Column("why not")]
    rows: list[list[Value]] = []
    for cell in task.cells:
        known = [cell.mean(m) for m in MEANT]
        runs = sum(r.reason is None for r in cell.runs)
        seeds = " ".join(map(str, cell.seeds)) or None
        mine: list[Value] = [cell.method, budget_name(cell.budget), runs, seeds, task.loss(cell), cell.sd("test_auc")]
        rows.append([*mine, *known, _fact(cell)])
    return Table(name, columns, rows)


def front(task: Task, name: str) -> Table:
    columns = [Column("method"), Column("budget"), Column(_titled("ratio"), share), Column("test AUC", auc)]
    columns += [Column("standard deviation", auc), Column("runs"), Column("test AUC lost", auc)]
    rows: list[list[Value]] = []
    for cell in task.front():
        n, sd = len(cell.values("test_auc")), cell.sd("test_auc")
        rows.append(
            [cell.method, budget_name(cell.budget), cell.mean("ratio"), cell.mean("test_auc"), sd, n, task.loss(cell)]
        )
    return Table(name, columns, rows)


def every_run(runs: Sequence[Run]) -> Table:
    """One row a run, as it was read."""
    columns = [Column(t) for t in ("data", "model", "method", "config", "budget", "seed", "settings")]
    columns += [Column(_titled(m), _show(m)) for m in MEASURES] + [Column("why not"), Column("read from")]
    rows: list[list[Value]] = []
    for r in runs:
        known = [r.measures.get(m) for m in MEASURES]
        rows.append([r.data, r.model, r.method, r.config, r.budget, r.seed, r.settings, *known, r.reason, r.where])
    return Table("runs", columns, rows)


def settings(task: Task) -> str:
    """The settings of a task as words."""
    known = json.loads(task.settings)
    return ", ".join(f"{k} {plain(v)}" for k, v in known.items() if v is not None and k != "source files")
