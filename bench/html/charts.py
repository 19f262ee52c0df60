"""The charts: points with a front, heat map, bars, matrix. Text and marks carry what colour shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from .runs import FULL
from .summary import Cell, Task, budget_name, pareto, share
from .svg import SHAPES, Axis, Labels, chart, clip, el, line, marker, spanning, swarm, text, width_of

FONT = 12.0
# A loss of test AUC of at most this much: its class of colour and words for the legend.
STEPS = (0.0, 0.001, 0.003, 0.01, 0.03)


@dataclass(frozen=True)
class Point:
    """One mark: series, place, spread along y (None: a single run), words when pointed at, label if not the series."""

    series: str
    x: float
    y: float
    spread: float | None
    hover: str
    label: str = ""


@dataclass(frozen=True)
class Plot:
    """What a chart of points is about; `better` is 1 where more is better on y, else -1; `order` keeps marks alike
    in several charts; with `cut`, points far worse than most may lie off the scale."""

    name: str
    title: str
    x: str
    y: str
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]
    better: int = 1
    log_y: bool = False
    level: tuple[float, str] | None = None
    order: tuple[str, ...] = ()
    cut: bool = True


def front_of(points: Sequence[Point], better: int) -> list[Point]:
    """Points that no other dominates, from small to large."""
    return sorted((points[i] for i in pareto([(p.x, better * p.y) for p in points])), key=lambda p: (p.x, p.y))


def shapes(points: Sequence[Point], plot: Plot) -> dict[str, tuple[str, int]]:
    """Shape and number of colour of the series that get their own: the plot's order, then the front's; rest dots."""
    order = dict.fromkeys(
        [*plot.order, *(p.series for p in front_of(points, plot.better)), *(p.series for p in points)]
    )
    given = {name: (SHAPES[i], i) for i, name in enumerate(list(order)[: len(SHAPES)])}
    return {name: mark for name, mark in given.items() if name in {p.series for p in points}}


def on_scale(points: Sequence[Point], better: int) -> tuple[list[float], list[Point]]:
    """Values that the axis must hold, and the points far worse than most, which would leave the rest no room."""
    values = sorted((p.y for p in points), reverse=better > 0)
    best, middle = values[0], values[len(values) // 2]
    far = best + 4 * (middle - best)
    off = [p for p in points if better * (far - p.y) > 0] if middle != best else []
    return [p.y + s * (p.spread or 0.0) for p in points if p not in off for s in (-1, 1)], off


def _shown(points: Sequence[Point], plot: Plot) -> tuple[list[float], list[Point]]:
    if plot.log_y:
        return [p.y for p in points], []
    if plot.cut:
        return on_scale(points, plot.better)
    return [p.y + s * (p.spread or 0.0) for p in points for s in (-1, 1)], []


def _steps(front: Sequence[Point], x: Axis, y: Axis, labels: Labels) -> str:
    """The front as a line: right to the next size, then to its quality. Labels keep clear of it."""
    path = f"M{x(front[0].x):.2f} {y(front[0].y):.2f}"
    for a, b in pairwise(front):
        path += f"H{x(b.x):.2f}V{y(b.y):.2f}"
        labels.avoid(x(a.x), y(a.y), x(b.x), y(a.y))
        labels.avoid(x(b.x), y(a.y), x(b.x), y(b.y))
    return el("path", d=path, class_="front")


def scatter(plot: Plot, points: Sequence[Point], width: float, height: float, kind: str = "") -> str:
    """Marks, the front as a line of steps, its points named; what is off the scale sits on the edge as a triangle."""
    front, shape = front_of(points, plot.better), shapes(points, plot)
    ends, off = _shown(points, plot)
    left, right, top, bottom = 52.0, width - 10, 24.0, height - 40
    x = spanning([p.x for p in points], left, right, log=True)
    y = spanning(ends, bottom, top, log=plot.log_y)
    parts = []
    for tick in x.ticks(int((right - left) / 70)):
        parts += [
            line(x(tick), top, x(tick), bottom, "grid"),
            text(x(tick), bottom + 15, plot.show_x(tick), anchor="middle"),
        ]
    for tick in y.ticks():
        parts += [
            line(left, y(tick), right, y(tick), "grid"),
            text(left - 5, y(tick) + 4, plot.show_y(tick), anchor="end"),
        ]
    parts.append(text((left + right) / 2, height - 6, plot.x, anchor="middle", class_="axis"))
    parts.append(text(2, 12, plot.y, class_="axis"))
    labels = Labels((left, 14, right + 8, bottom), FONT)
    if off:
        parts.append(text(right, 12, f"▽ {len(off)} off the scale", anchor="end", class_="note"))
    if plot.level is not None and y.low < plot.level[0] < y.high:
        at, words = plot.level
        parts += [line(left, y(at), right, y(at), "level"), text(right, y(at) - 4, words, anchor="end", class_="note")]
        labels.taken.append((right - width_of(words, 11), y(at) - 14, right, y(at) + 1))
    on_scale = [p for p in front if p not in off]
    if len(on_scale) > 1:
        parts.append(_steps(on_scale, x, y, labels))
    edge = bottom - 5 if plot.better > 0 else top + 5
    # Those on the front stay where they are, then those with marks of their own move as little as they must.
    ranked = sorted(points, key=lambda p: (p not in front, p.series not in shape))
    places = [(x(p.x), edge if p in off else y(p.y)) for p in ranked]
    moved = swarm(places, 8, 18 if width > 600 else 6)
    for p, across, (_, at) in reversed(list(zip(ranked, moved, places, strict=True))):
        labels.block(across, at, 4)
        if p in off:
            parts.append(marker("down", across, at, 3, "dot", f"{p.hover} (off the scale)"))
            continue
        form, number = shape.get(p.series, ("circle", -1))
        colour = f"s{number}" if number >= 0 else "dot"
        if p.spread:
            a, b = (y(min(max(p.y + s * p.spread, y.low), y.high)) for s in (-1, 1))
            parts.append(line(across, a, across, b, f"whisker {colour}"))
        solid = colour + (" on-front" if p in front else "") + (" single" if p.spread is None else "")
        parts.append(marker(form, across, at, 4 if number >= 0 else 2.6, solid, p.hover))
    said = ""
    for p in on_scale:
        name = p.label or p.series
        if name != said or width > 600:  # a run of one method needs its name once where room is scarce
            parts.append(labels.place(x(p.x), y(p.y), name, "name"))
        said = name
    named = "; ".join(f"{p.label or p.series}: {plot.show_x(p.x)}, {plot.show_y(p.y)}" for p in front)
    about = f"{len(points)} points, {plot.x} against {plot.y}. On the front, from small to large: {named}."
    if off:
        about += f" {len(off)} points are off the scale and sit on its edge."
    return chart(plot.name, plot.title, about, width, height, *parts, kind=kind)


def legend(points: Sequence[Point], plot: Plot) -> str:
    """Which mark is which series, as a list."""
    found = shapes(points, plot)
    items = [
        el(
            "li",
            el("svg", marker(form, 8, 8, 4, f"s{number} on-front"), viewBox="0 0 16 16", aria_hidden="true"),
            escape(name),
        )
        for name, (form, number) in found.items()
    ]
    rest = len({p.series for p in points}) - len(found)
    if rest:
        items.append(
            el(
                "li",
                el("svg", marker("circle", 8, 8, 3, "dot"), viewBox="0 0 16 16", aria_hidden="true"),
                f"{rest} others",
            )
        )
    return el("ul", *items, class_="legend")


def quality_points(task: Task) -> list[Point]:
    found = []
    for cell in task.measured("ratio", "test_auc"):
        size, auc, sd = cell.mean("ratio") or 0.0, cell.mean("test_auc") or 0.0, cell.sd("test_auc")
        n = len(cell.values("test_auc"))
        spread = "one run" if sd is None else f"± {sd:.4f} over {n} runs"
        found.append(
            Point(cell.method, size, auc, sd, f"{cell.name}: {share(size)} of the bytes, test AUC {auc:.4f}, {spread}")
        )
    return found


def lost(loss: float) -> str:
    """A loss to four places; a gain has a plus."""
    return f"{abs(loss):.4f}" if round(loss, 4) >= 0 else f"+{-loss:.4f}"


def loss_class(loss: float) -> str:
    return f"h{sum(loss > step for step in STEPS)}"


def loss_words() -> list[str]:
    """What each class of `loss_class` stands for."""
    return ["no loss"] + [f"≤ {step:g}" for step in STEPS[1:]] + [f"> {STEPS[-1]:g}"]


def heat_legend() -> str:
    items = [el("li", el("span", class_=f"swatch h{i}"), f" {w}") for i, w in enumerate(loss_words())]
    items.append(el("li", el("span", class_="swatch none"), " cannot be that small"))
    return el("ul", *items, class_="legend")


def by_loss(task: Task) -> list[str]:
    """Methods, the least lost first, at the budget nearest to 10 % that half as many have as any."""
    counts = {
        b: sum((c := task.cell(m, b)) is not None and c.reason is None for m in task.methods) for b in task.budgets
    }
    enough = [b for b in task.budgets if 2 * counts[b] >= max(counts.values())]
    common = min(enough, key=lambda b: abs(math.log((b or 1) / 0.1)))

    def key(method: str) -> tuple[bool, float]:
        cell = task.cell(method, common)
        auc = cell.mean("test_auc") if cell else None
        return auc is None, -(auc or 0.0)

    return sorted(task.methods, key=key)


def heat_map(task: Task, name: str) -> str:
    """Test AUC lost by method and budget; blank where the method cannot be that small, a dot where nothing was run."""
    methods, budgets = by_loss(task), task.budgets
    first = min(118.0, max(width_of(m, FONT) for m in methods) + 14)
    wide, high, top = max(50.0, (352 - first) / len(budgets)), 21.0, 22.0
    parts = []
    for i, budget in enumerate(budgets):
        parts.append(text(first + (i + 0.5) * wide, 14, budget_name(budget), anchor="middle", class_="axis"))
    blank = 0
    for j, method in enumerate(methods):
        y = top + j * high
        parts.append(text(first - 6, y + 15, clip(method, first - 6, FONT), anchor="end", hover=method))
        for i, budget in enumerate(budgets):
            cell = task.cell(method, budget)
            blank += cell is not None and cell.reason is not None
            parts.append(_square(task, cell, method, budget, (first + i * wide, y, wide - 2, high - 2)))
    about = (
        f"{len(methods)} methods by {len(budgets)} budgets, {blank} of them out of reach; the table of means has all."
    )
    return chart(
        name, f"Test AUC lost against the full table: {task.name}", about,
        first + wide * len(budgets), top + high * len(methods) + 2, *parts, kind="many" if len(budgets) > 5 else "",
    )  # fmt: skip


def _square(
    task: Task, cell: Cell | None, method: str, budget: float | None, box: tuple[float, float, float, float]
) -> str:
    x, y, w, h = box
    where = f"{method} at {budget_name(budget)}"
    loss = task.loss(cell) if cell is not None else None
    if cell is None or (loss is None and cell.reason is None):
        said = "not run" if cell is None else "its runs have no test AUC"
        return text(x + w / 2, y + 14, "·", anchor="middle", class_="note", hover=f"{where}: {said}")
    if loss is None:
        return el("rect", el("title", escape(f"{where}: {cell.reason}")), x=x, y=y, width=w, height=h, class_="none")
    n, sd = len(cell.values("test_auc")), cell.sd("test_auc")
    hover = f"{where}: loses {loss:.5f}, {'one run' if sd is None else f'± {sd:.5f} over {n} runs'}"
    hover += f", {cell.failed} failed" if cell.failed else ""
    level = loss_class(loss)
    shown = lost(loss)
    return el(
        "g",
        el("title", escape(hover)),
        el("rect", x=x, y=y, width=w, height=h, class_=level),
        text(x + w / 2, y + 14, shown, anchor="middle", class_=f"in-{level}"),
        class_="cell", data_method=method, data_budget=repr(budget), data_loss=repr(loss),
    )  # fmt: skip


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    spread: float | None
    runs: int


def bars(name: str, title: str, unit: str, rows: Sequence[Bar]) -> str:
    """Bars from zero; dots on a log axis, without bars, where the largest is over 50 times the least."""
    first = min(160.0, max(width_of(r.label, FONT) for r in rows) + 18)
    low, high = min(r.value for r in rows), max(r.value for r in rows)
    log = low > 0 and high > 50 * low
    end = 296.0
    axis = (
        spanning([r.value for r in rows], first + 4, end, log=True)
        if log
        else Axis(0, max(r.value + (r.spread or 0.0) for r in rows) or 1.0, first, end)
    )
    tall, parts = 20.0, []
    for j, row in enumerate(rows):
        y, at = 4 + j * tall, axis(row.value)
        spread = "one run" if row.spread is None else f"± {row.spread:.3g} over {row.runs} runs"
        hover = f"{row.label}: {row.value:.4g} {unit}, {spread}"
        parts.append(text(first - 6, y + 14, clip(row.label, first - 18, FONT), anchor="end", hover=row.label))
        if log:
            parts += [line(first, y + 10, end, y + 10, "grid"), marker("circle", at, y + 10, 4, "s0 on-front", hover)]
        else:
            parts.append(
                el(
                    "rect",
                    el("title", escape(hover)),
                    x=first,
                    y=y + 3,
                    width=max(at - first, 0.5),
                    height=14,
                    class_="bar whole" if row.label == FULL else "bar",
                )
            )
        if row.spread:
            ends = [axis(min(max(row.value + s * row.spread, axis.low), axis.high)) for s in (-1, 1)]
            parts.append(line(ends[0], y + 10, ends[1], y + 10, "whisker ink"))
        parts.append(text(end + 6, y + 14, f"{row.value:.4g}" if row.value < 10_000 else f"{row.value:,.0f}"))
    said = "; ".join(f"{r.label} {r.value:.4g}" for r in rows)
    about = f"In {unit}, {'on a logarithmic axis' if log else 'from zero'}: {said}."
    return chart(name, title, about, 360, tall * len(rows) + 8, *parts)


def matrix(name: str, title: str, labels: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """Kendall's tau of every pair; columns are numbered as the rows are."""
    n = len(labels)
    rows = [f"{i + 1} {label}" for i, label in enumerate(labels)]
    first = min(150.0, max(width_of(r, FONT) for r in rows) + 14)
    side, high, top = max(34.0, min(56.0, (352 - first) / n)), 24.0, 20.0
    parts = [text(first + (i + 0.5) * side, 14, str(i + 1), anchor="middle", class_="axis") for i in range(n)]
    for j, row in enumerate(values):
        y = top + j * high
        parts.append(text(first - 6, y + 16, clip(rows[j], first - 6, FONT), anchor="end", hover=labels[j]))
        for i, value in enumerate(row):
            x = first + i * side
            level = "none" if value is None else f"t{sum(value > step for step in (0.2, 0.5, 0.8, 0.95))}"
            parts.append(el("rect", x=x, y=y, width=side - 2, height=high - 2, class_=level))
            shown = "" if value is None else f"{value:.2f}".replace("-", "−")
            parts.append(text(x + side / 2 - 1, y + 16, shown, anchor="middle", class_=f"in-{level}"))
    pairs = [
        f"{labels[i]} and {labels[j]} {values[i][j]:.2f}"
        for i in range(n)
        for j in range(i)
        if values[i][j] is not None
    ]
    about = f"Kendall's tau of pairs: {'; '.join(pairs) or 'none is defined'}."
    return chart(name, title, about, max(first + side * n, 360), top + high * n + 2, *parts)
