"""The page: sections in the order in which a reader who must choose asks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from . import offline, tables
from .advice import TOLERABLE, advise
from .charts import Bar, Plot, Point, bars, heat_legend, heat_map, legend, matrix, quality_points, scatter
from .offline import both, figure
from .runs import DIVERGED, MEASURES, Material, Run, plain
from .summary import Task, agreements, budget_name, share, tasks
from .svg import el, prose
from .tables import Column, Table, Value

COSTS = ("step_ms", "seconds_to_best", "seconds", "serve_1", "serve_128", "serve_10000", "peak_mb")
NEEDS = {
    "step_ms": "the time of a training step", "seconds_to_best": "the time to the best model",
    "seconds": "the time of training", "serve_1": "the latency of a lookup",
    "serve_128": "the latency of a lookup", "serve_10000": "the latency of a lookup",
    "peak_mb": "peak memory", "test_log_loss": "test log loss", "test_calibration": "calibration",
}  # fmt: skip


def p(content: str, class_: str | None = None) -> str:
    return el("p", prose(content), class_=class_)


def section(name: str, title: str, *inside: str) -> str:
    return el("section", el("h2", escape(title)), *inside, id=name)


def _counts(found: Sequence[Task]) -> str:
    per = sorted({len(c.values("test_auc")) for t in found for c in t.cells if c.mean("test_auc") is not None})
    seeds = sorted({seed for t in found for seed in t.seeds})
    if not per:
        return "No run has a test AUC."
    each = f"{per[0]}" if len(per) == 1 else f"{per[0]} to {per[-1]}"
    text = f"Each mean is of {each} run{'s' * (per[-1] != 1)}"
    text += f" (seeds {', '.join(map(str, seeds))})" if seeds else ""
    if per[-1] == 1:
        return text + ": nothing here says how far another seed would land, and there are no error bars."
    return text + "; ± and error bars are one sample standard deviation over seeds, hollow marks are single runs."


def _advice(found: Sequence[Task], timed: bool) -> tuple[str, Table]:
    rows = [[a.task, a.use, a.cell.name if a.cell else None, a.why] for t in found for a in advise(t)]
    table = Table("recommendations", [Column(t) for t in ("data and model", "use", "method", "numbers")], rows)
    cards = []
    for task in found:
        items = []
        for a in advise(task):
            pick = el("b", prose(a.cell.name)) if a.cell else el("i", "no pick")
            items.append(el("dt", prose(a.use[0].upper() + a.use[1:])) + el("dd", f"{pick}: {prose(a.why)}."))
        cards.append(el("article", el("h3", escape(task.name)), el("dl", *items)))
    told = "the runs as they were: they compare only where the machine did nothing else."
    if timed:
        told = "runs that were made again for them; others have none."
    note = p(f"Times are of {told}", "note")
    return section("choose", "What to choose", note, el("div", *cards, class_="cards"), table.link()), table


def _order(found: Sequence[Task]) -> tuple[str, ...]:
    """Methods in the order in which they get marks of their own: the full table, then those of any front."""
    whole = [t.full.method for t in found if t.full is not None]
    return tuple(dict.fromkeys(whole + [c.method for t in found for c in t.front()]))


def _quality(task: Task, number: int, order: tuple[str, ...], files: list[Table]) -> str:
    parts = []
    told = tables.settings(task)
    base = next((b for c in task.cells for b in c.values("popularity")), None)
    points = quality_points(task)
    if points:
        level = None if base is None else (base, "popularity (validation)")
        plot = Plot(
            f"quality{number}", f"Test AUC against stored bytes: {task.name}",
            "stored bytes, part of float32", "test AUC",
            share, lambda v: f"{v:.4g}", level=level, order=order,
        )  # fmt: skip
        caption = "Test AUC against stored bytes (logarithmic); higher and further left is better. The line is the "
        caption += "front of means: nothing is both smaller and better; where error bars overlap, that may be chance. "
        caption += "Marks that would cover each other stand side by side."
        parts.append(figure(caption, both(plot, points), legend(points, plot)))
        front = tables.front(task, f"front-{number + 1}")
        files.append(front)
        parts.append(el("h4", "On the front") + front.html())
    else:
        parts.append(p("No run has both its stored bytes and a test AUC, so there is no chart of the two."))
    if task.full is None:
        parts.append(p("There is no run of the full table (float32 without a budget), so no loss against it."))
    elif task.methods:
        caption = (
            "Test AUC lost against the full table, mean over seeds; + is a gain. Blank: the method cannot be that "
        )
        caption += "small; a dot: not run."
        parts.append(
            figure(caption, el("div", heat_map(task, f"heat{number}"), class_="wide"), heat_legend(), class_="heat")
            + _reasons(task)
        )
    else:
        parts.append(p("The full table is the only method, so nothing is lost against it."))
    means = tables.means(task, f"means-{number + 1}")
    files.append(means)
    parts.append(el("details", el("summary", f"All {len(means.rows)} means as a table"), means.html()))
    if len(task.methods) > 1 and points:
        parts.append(el("details", el("summary", "Each method by itself"), _each(task, points, number)))
    lead = f"Settings: {told or 'not given'}."
    lead += f" Popularity alone has a validation AUC of {base:.4f}." if base is not None else ""
    return section(f"task{number}", f"Quality: {task.name}", p(lead), *parts)


def _reasons(task: Task) -> str:
    items = [el("li", escape(f"{c.name}: {c.reason}")) for c in task.cells if c.reason is not None]
    if not items:
        return ""
    return el("details", el("summary", f"Why {len(items)} are blank"), el("ul", *items))


def _each(task: Task, points: Sequence[Point], number: int) -> str:
    """One small chart a method, so that curves do not hide each other."""
    whole = [q for q in points if task.full is not None and q.series == task.full.method]
    made = []
    for i, method in enumerate(task.methods):
        own = [q for q in points if q.series == method]
        if own and method not in {q.series for q in whole}:
            plot = Plot(
                f"each{number}-{i}",
                f"{method}: test AUC against stored bytes",
                "stored bytes",
                "test AUC",
                share,
                lambda v: f"{v:.4g}",
                cut=False,
            )
            made.append(figure(escape(method), scatter(plot, own + whole, 300, 200)))
    return el("div", *made, class_="charts small")


def _costs(task: Task, number: int) -> str:
    """Bars of each cost at the budget that most methods have it at, beside the full table."""
    made, missing = [], []
    for measure in COSTS:
        budget, cells = task.costs(measure)
        if not cells:
            missing.append(NEEDS[measure])
            continue
        about = MEASURES[measure]
        rows = [Bar(c.method, c.mean(measure) or 0.0, c.sd(measure), len(c.values(measure))) for c in cells]
        title = f"{about.title[0].upper()}{about.title[1:]}, {about.unit}"
        at = f" at {budget_name(budget)}" if any(c is not task.full for c in cells) else ""
        most = max(r.runs for r in rows)
        runs = f"mean{f's of up to {most} runs' if most > 1 else ' of one run'}"
        made.append(
            figure(
                escape(f"{title}{at}: {runs}; less is better."),
                bars(f"cost{number}-{measure}", f"{title}{at}: {task.name}", about.unit, rows),
            )
        )
    gone = p(f"No run has {', '.join(dict.fromkeys(missing))}.", "note") if missing else ""
    return el("h3", escape(task.name)) + el("div", *made, class_="charts") + gone


def _stability(found: Sequence[Task], files: list[Table]) -> str:
    """Tau over tasks, and within each task over seeds."""
    made, left = [], []
    rows: list[list[Value]] = []
    for number, group in enumerate(agreements(found)):
        if not group.known:
            left.append(group.over)
            continue
        rows += [[group.over, *one] for one in group.known]
        pairs = [one[3] for one in group.known]
        caption = f"Over {group.over}: {' to '.join(map(str, sorted({min(pairs), max(pairs)})))} pairs of methods each."
        values = [[known[0] if known else None for known in row] for row in group.taus]
        title = f"Kendall's tau over {group.over}"
        made.append(figure(escape(caption), matrix(f"tau{number}", title, group.names, values)))
    intro = p(
        "Kendall's tau-b of test AUC over all pairs of methods at the same budget: 1 where both order all pairs alike, "
        "0 where one says nothing about the other, −1 where they contradict each other."
    )
    if left:
        intro += p(f"Fewer than two rankings of two methods, so no matrix, over: {'; '.join(left)}.", "note")
    if not rows:
        return section("ranks", "Do ranks hold", intro)
    table = Table(
        "ranks", [Column("over"), Column("one"), Column("other"), Column("Kendall's tau"), Column("pairs")], rows
    )
    files.append(table)
    return section("ranks", "Do ranks hold", intro, el("div", *made, class_="charts"), table.link())


def _environment(material: Material, files: list[Table]) -> str:
    places: dict[str, list[Run]] = {}
    for run in (r for r in (*material.runs, *material.timed) if r.reason is None):
        places.setdefault(run.environment, []).append(run)
    rows: list[list[Value]] = []
    for place, own in places.items():
        commits, dates = ({getattr(r, key) for r in own} - {""} for key in ("commit", "date"))
        span = " to ".join(sorted({min(dates), max(dates)})) if dates else None
        rows.append([place or "the lines do not say", len(own), ", ".join(sorted(commits)) or None, span])
    rows += [[f"{kind}: {plain(r.get('environment'))}", None, None, None] for kind, r in material.offline.items()]
    table = Table("environment", [Column(t) for t in ("machine and software", "runs", "commits", "dates")], rows)
    files.append(table)
    read = p(f"Read: {', '.join(material.files)}.")
    return section("environment", "Where it was measured", read, table.html())


def build(material: Material) -> tuple[str, list[Table]]:
    """The page, and its tables."""
    found = tasks(material.runs)
    files: list[Table] = []
    parts, contents = [], []
    if found:
        chosen, table = _advice(found, bool(material.timed))
        files.append(table)
        parts.append(chosen)
        contents.append(("choose", "What to choose"))
        order = _order(found)
        for number, task in enumerate(found):
            parts.append(_quality(task, number, order, files))
            contents.append((f"task{number}", task.name))
        parts.append(section("costs", "What it costs", *(_costs(t, i) for i, t in enumerate(found))))
        parts.append(_stability(found, files))
        contents += [("costs", "What it costs"), ("ranks", "Do ranks hold")]
    for kind, result in material.offline.items():
        parts.append(offline.section(kind, material.names[kind], result, files))
        contents.append((kind, offline.KINDS[kind][0]))
    parts.append(_environment(material, files))
    contents.append(("environment", "Where it was measured"))
    if material.runs:
        runs = tables.every_run(material.runs)
        files.append(runs)
        parts[-1] += runs.link()
    refused = sum(r.reason is not None for r in material.runs)
    diverged = sum(r.reason == DIVERGED for r in material.runs)
    lead = f"{len(material.runs) - refused} trainings of {len({r.method for r in material.runs})} methods on "
    lead += ", ".join(f"{data} ({model})" for data, model in dict.fromkeys((r.data, r.model) for r in material.runs))
    lead += f"; {refused - diverged} more cannot reach their budget" if refused > diverged else ""
    lead += f"; {diverged} diverged." if diverged else "."
    head = [el("h1", "Compressed embedding tables compared")]
    if material.runs:
        head += [p(lead), p(f"{_counts(found)} A loss of up to {TOLERABLE} counts as tolerable below.")]
    head += [p(note, "note") for note in material.notes]
    links = el("nav", *(el("a", escape(words), href=f"#{name}") for name, words in contents), aria_label="Sections")
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    top = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    top += el("title", "Compressed embedding tables compared") + el("style", style)
    body = el("header", *head, links) + el("main", *parts)
    return f'<!doctype html>\n<html lang="en"><head>{top}</head><body>{body}</body></html>\n', files
