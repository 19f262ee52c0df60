"""A section for each of the benchmarks of finished tables: vectors, search, words."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from .charts import Bar, Plot, Point, bars, front_of, legend, scatter
from .runs import InputError, plain
from .svg import el
from .tables import Column, Table, auc

Result = dict[str, Any]
# Kinds of `bench vectors` in the order in which they get their marks, alike in all charts.
KINDS_OF_CODES = ("embstore", "PQ", "OPQ", "RQ", "SQ", "LSQ", "PRQ", "PLSQ")
NARROW, WIDE = (360.0, 330.0), (960.0, 440.0)


def both(plot: Plot, points: list[Point]) -> str:
    """A chart of points drawn for narrow and for wide pages, of which one is shown."""
    wide = Plot(**{**plot.__dict__, "name": f"{plot.name}-wide"})
    return scatter(plot, points, *NARROW, kind="narrow") + scatter(wide, points, *WIDE, kind="broad")


def figure(caption: str, *inside: str, class_: str | None = None) -> str:
    return el("figure", el("figcaption", caption), *inside, class_=class_)


def _made(result: Result) -> str:
    return el(
        "p", escape(f"Measured: {plain(result.get('environment')) or 'the file does not say where'}."), class_="note"
    )


def _vectors(result: Result, files: list[Table]) -> str:
    parts = []
    for number, table in enumerate(result["tables"]):
        rows: list[list[Any]] = []
        points = []
        found = table.get("all") or [r for b in table["budgets"] for r in (b["ours"], b["peer"], b["recall"]) if r]
        for r in found:
            points.append(
                Point(
                    r.get("kind", "method"),
                    r["bpd"],
                    r["error"],
                    0.0,
                    f"{r['method']}: {r['bpd']:.3g} bits a value, error {r['error']:.3g}",
                    r["method"],
                )
            )
            rows.append([r["method"], r["bpd"], r["error"], r["recall"]])
        points = [p for p in points if p.x > 0 and p.y > 0]
        kept = Table(
            f"vectors-{number + 1}",
            [
                Column("method"),
                Column("bits a value"),
                Column("relative squared error"),
                Column("recall of the 10 nearest"),
            ],
            rows,
        )
        files.append(kept)
        plot = Plot(
            f"vectors{number}", f"Error for the bytes: {table['table']}",
            "bits a value, everything counted", "relative squared error",
            lambda v: f"{v:g}", lambda v: f"{v:g}", better=-1, log_y=True, order=KINDS_OF_CODES,
        )  # fmt: skip
        caption = escape(
            f"{table['table']}, {table['metric']}: relative squared error, one run each; lower and left is better"
        )
        details = el("details", el("summary", "Every method as a table"), kept.html())
        parts.append(figure(caption, both(plot, points), legend(points, plot)) + details if points else details)
    return "".join(parts)


def _retrieval(result: Result, files: list[Table]) -> str:
    rows = [[r["name"], r["batch"], r["queries_per_s"], r["recall"]] for r in result["rows"]]
    table = Table("retrieval", [Column("who"), Column("queries at once"), Column("queries/s"), Column("recall")], rows)
    files.append(table)
    about = f"{result['num_embeddings']:,} rows of {result['embedding_dim']}, {result['threads']} threads, "
    about += f"the {result['k']} nearest"
    parts = []
    for batch in dict.fromkeys(r["batch"] for r in result["rows"]):
        own = [Bar(f"{r['name']}", r["queries_per_s"], None, 1) for r in result["rows"] if r["batch"] == batch]
        words = f"{batch} queries at once" if batch > 1 else "One query at once"
        parts.append(
            figure(
                escape(f"{words}: queries a second; more is better."), bars(f"search{batch}", words, "queries/s", own)
            )
        )
    return el("p", escape(about + ".")) + el("div", *parts, class_="charts") + table.html()


def _words(result: Result, files: list[Table]) -> str:
    names = list(result["rows"][0]["scores"])
    rows = [[r["spec"], r["bytes_per_row"], r["error"], *(r["scores"].get(n) for n in names)] for r in result["rows"]]
    columns = [Column("method"), Column("bytes a row"), Column("relative squared error")]
    table = Table("words", [*columns, *(Column(n, auc) for n in names)], rows)
    files.append(table)
    shown = {}
    for name in names:
        made = [
            Point(spec.split(", ")[0], size, score, 0.0, f"{spec}: {size:.1f} bytes a row, {score:.4f}")
            for spec, size, score in ((r["spec"], r["bytes_per_row"], r["scores"].get(name)) for r in result["rows"])
            if score is not None and size > 0
        ]
        if made:
            shown[name] = made
    # Marks of their own for what is on any front, the same in all charts.
    order = tuple(dict.fromkeys(p.series for points in shown.values() for p in front_of(points, 1)))
    parts = []
    for number, (name, points) in enumerate(shown.items()):
        plot = Plot(
            f"words{number}", f"{name} by bytes a row", "bytes a row", name, lambda v: f"{v:g}", lambda v: f"{v:.3g}",
            order=order,
        )  # fmt: skip
        parts.append(el("figure", scatter(plot, points, 360, 280), legend(points, plot)))
    about = "Spearman's correlation with human judgements, and the share of analogies answered; more is better."
    return el("p", escape(f"{result.get('table', '')}. {about}")) + el("div", *parts, class_="charts") + table.html()


def _search(result: Result, files: list[Table]) -> str:
    if result.get("version") != SEARCH_VERSION:
        raise ValueError(f"version must be {SEARCH_VERSION}, found {result.get('version')!r}")
    parts = []
    for number, asked in enumerate(result["searched"]):
        k = max((k for k in asked["k"] if k <= 10), default=min(asked["k"]))
        judged = any(row.get(f"nDCG@{k}") is not None for row in asked["rows"])
        measure = f"nDCG@{k}" if judged else f"recall@{k}"
        titles = [f"{what}@{k}" for k in asked["k"] for what in (("recall", "nDCG") if judged else ("recall",))]
        columns = [Column("who"), Column("codes"), Column("rerank"), Column("bytes"), Column("bits a value")]
        columns += [*(Column(t, auc) for t in titles), Column("build, s")]
        columns += [Column(f"queries/s, {asked['batch']} at once"), Column("queries/s, one at once"), Column("why not")]
        rows: list[list[Any]] = [
            [
                row["who"], row["name"], "yes" if row["rerank"] else "no", row.get("nbytes"), row.get("bits_per_value"),
                *(row.get(t) for t in titles), row.get("build_seconds"), row.get("queries_per_s"),
                row.get("queries_per_s_alone"), row.get("reason"),
            ]
            for row in asked["rows"]
        ]  # fmt: skip
        table = Table(f"search-{number + 1}", columns, rows)
        files.append(table)
        points = [
            Point(
                f"{r['who']}{', rerank' if r['rerank'] else ''}", r["bits_per_value"], r[measure], 0.0,
                f"{r['who']} {r['name']}: {r['bits_per_value']:.3g} bits a value, {measure} {r[measure]:.4f}",
                r["name"],
            )
            for r in asked["rows"] if "reason" not in r
        ]  # fmt: skip
        plot = Plot(
            f"asked{number}", f"{measure} for the bytes: {asked['name']}", "bits a value, everything counted", measure,
            lambda v: f"{v:g}", lambda v: f"{v:.3g}", cut=False,
            order=("embstore", "embstore, rerank", "FAISS", "FAISS, rerank", "USearch"),
        )  # fmt: skip
        about = f"{asked['name']}: {asked['num_embeddings']:,} rows of {asked['embedding_dim']} ({asked['vectors']}), "
        about += (
            f"{asked['queries']:,} queries, {asked['metric']}, threads {asked['threads']}. Higher and further left "
        )
        about += "is better; a rerank needs the float32 rows too, which are counted."
        parts.append(figure(escape(about), both(plot, points), legend(points, plot)))
        parts.append(el("details", el("summary", f"All {len(rows)} as a table"), table.html()) + _made(asked))
    return "".join(parts)


SEARCH_VERSION = 1
KINDS: dict[str, tuple[str, Callable[[Result, list[Table]], str]]] = {
    "vectors": ("Finished tables: error for the bytes", _vectors),
    "retrieval": ("Finished tables: search", _retrieval),
    "words": ("Finished tables: words", _words),
    "search": ("Finished tables: questions with answers", _search),
}


def section(kind: str, name: str, result: Result, files: list[Table]) -> str:
    """The section of one result, read from the file `name`; its tables are added to `files`."""
    title, write = KINDS[kind]
    try:
        inside = write(result, files)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{name}: expected what `python -m bench {kind}` writes, found one missing or of another type ({error})"
        ) from None
    made = "" if kind == "search" else _made(result)  # each of its data sets was measured by itself
    return el("section", el("h2", title), inside, made, id=kind)
