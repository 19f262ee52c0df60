"""Write docs/performance.md from bench/results: every figure on the page comes from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .timing import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"

INTRO = """# Performance

Written by `python -m bench report` from `bench/results/*.json`; each figure was measured by `python -m bench`, none is
typed in. Speeds are ratios against a peer measured in turns with it in the same run; the medians over rounds of the
paired ratios are shown. Absolute rates are there for orientation: they belong to that machine on that day.

A lookup of dim 128 has to read 512 bytes a row in float32 and 132 in int8 (128 codes, scale and offset), and write 512;
a bag of 32 writes 1/32 of that. Rows are prefetched 8 to 16 ahead; outputs of 8 MiB or more are stored past the cache.
"""


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _verdict(value: float, target: float, low: bool = False) -> str:
    return "met" if (value <= target if low else value >= target) else "**missed**"


def _kernels(result: dict[str, Any]) -> str:
    rows = result["rows"]
    cases = sorted({(r["dim"], r["ids"], r["threads"]) for r in rows}, key=lambda c: (c[0] != 128, c[0], c[1], c[2]))

    def over(case: tuple[Any, ...], op: str, name: str, *peers: str) -> float | None:
        row = next(
            (r for r in rows if (r["dim"], r["ids"], r["threads"]) == case and (r["op"], r["name"]) == (op, name)), None
        )
        found = [row["over"][p] for p in peers if row and p in row["over"]]
        return min(found) if found else None

    columns = [
        ("int8 / take", "lookup", "embstore int8", ("numpy.take",), 1.7),
        ("int8 / FBGEMM", "lookup", "embstore int8", ("FBGEMM int8 unpooled",), 3.0),
        ("int4 / take", "lookup", "embstore int4", ("numpy.take",), 1.3),
        ("nf4 / take", "lookup", "embstore nf4", ("numpy.take",), 1.3),
        ("dynamic8 / take", "lookup", "embstore dynamic8", ("numpy.take",), 1.3),
        (
            "int8 bag / best peer",
            "bag of 32",
            "embstore int8 bag",
            ("FBGEMM int8 bag", "torch byte_rowwise_offsets"),
            1.05,
        ),
        ("int4 bag / FBGEMM", "bag of 32", "embstore int4 bag", ("FBGEMM int4 bag",), 1.05),
    ]
    text = (
        "\n## Kernels: 2 GiB of float32, ids uniform and Zipf\n\nRatio to the peer; the first row has the target.\n\n"
    )
    text += (
        "| dim | ids | threads | " + " | ".join(c[0] for c in columns) + " |\n|" + "---|" * (3 + len(columns)) + "\n"
    )
    text += "| | target | | " + " | ".join(f"{c[4]:g}" for c in columns) + " |\n"
    for case in cases:
        cells = []
        for _, op, name, peers, target in columns:
            value = over(case, op, name, *peers)
            cells.append("" if value is None else f"{value:.2f}" + ("" if value >= target else " (missed)"))
        text += f"| {case[0]} | {case[1]} | {case[2]} | " + " | ".join(cells) + " |\n"
    rate = {(r["dim"], r["ids"], r["threads"], r["op"], r["name"]): r["mrows_per_s"] for r in rows}
    text += "\nTwo threads over one (rate of two divided by rate of one; target 1.8):\n\n"
    text += "| dim | ids | int8 lookup | int8 bag | int4 bag |\n|---|---|---|---|---|\n"
    for dim, ids in sorted({(c[0], c[1]) for c in cases}, key=lambda c: (c[0] != 128, c)):
        cells = []
        for op, name in (
            ("lookup", "embstore int8"),
            ("bag of 32", "embstore int8 bag"),
            ("bag of 32", "embstore int4 bag"),
        ):
            value = rate[dim, ids, 2, op, name] / rate[dim, ids, 1, op, name]
            cells.append(f"{value:.2f}" + ("" if value >= 1.8 else " (missed)"))
        text += f"| {dim} | {ids} | " + " | ".join(cells) + " |\n"
    text += "\nRates at dim 128, uniform ids, million rows per second (medians):\n\n"
    text += "| | one thread | two threads |\n|---|---:|---:|\n"
    for op, name in dict.fromkeys((r["op"], r["name"]) for r in rows if r["dim"] == 128 and r["ids"] == "uniform"):
        one, two = rate[128, "uniform", 1, op, name], rate[128, "uniform", 2, op, name]
        text += f"| {op}: {name} | {one:.1f} | {two:.1f} |\n"
    return text


TARGETS = {
    "import embstore, s": (0.15, True),
    "compress to int8, GB/s of input": (0.6, False),
    "compress, MB of anonymous memory": (500, True),
    "one row by id, us": (2, True),
    "one row by key, us": (4, True),
    "batch of keys, M/s": (2, False),
    "cold, over numpy memmap": (5, False),
    "open 50 GB, ms": (5, True),
    "open 50 GB, MB resident": (10, True),
}


def _tables(result: dict[str, Any]) -> str:
    text = "\n## Tables\n\n| what | measured | target | |\n|---|---:|---:|---|\n"
    for name, value in result["figures"].items():
        if name in TARGETS:
            target, low = TARGETS[name]
            text += f"| {name} | {_digits(value, 3)} | {'≤' if low else '≥'} {target:g} | "
            text += f"{_verdict(value, target, low)} |\n"
        else:
            text += f"| {name} | {_digits(value, 4)} | | |\n"
    return text


def _errors(result: dict[str, Any]) -> str:
    text = f"\n## What each method costs and loses\n\n{result['table']}; error is sum((decoded - x)²) / sum(x²).\n"
    text += "Targets: int8 ≤ 3.0e-5 at ≤ 58 bytes, int4 ≤ 8.5e-3 at ≤ 29 bytes.\n\n"
    text += "| method | bytes per row | error |\n|---|---:|---:|\n"
    for row in result["rows"]:
        text += f"| {row['method']} | {row['bytes_per_row']:.2f} | {row['error']:.2e} |\n"
    return text


def _digits(value: float, digits: int) -> str:
    """`value` to so many digits, and whole where it has more before the point."""
    return f"{value:,.0f}" if value >= 10**digits else f"{value:.{digits}g}"


def _modules(result: dict[str, Any]) -> str:
    text = "\n## Tables beside the modules that trained them\n\n"
    text += (
        "Lookups of the exported table over the eager forward pass, one thread, a million uniform ids of a million\n"
    )
    text += "rows (fewer ids where the module is slow); into an array that is there, and into a new one, as a forward\n"
    text += "pass makes it.\n\n"
    text += "| module | dim | M rows/s | over the module | into a new array |\n|---|---:|---:|---:|---:|\n"
    for row in result["rows"]:
        name = " ".join([f"`{row['name']}`", *(f"{k}={v}" for k, v in row["config"].items())])
        text += f"| {name} | {row['dim']} | {_digits(row['table_mrows_per_s'], 2)} | {row['over']:.1f} | "
        text += f"{row['over_new_array']:.1f} |\n"
    return text


def _codes(result: dict[str, Any]) -> str:
    columns = {
        "lookup, M rows/s": "lookups, M rows/s",
        "lookup, times FAISS IndexRaBitQ": "over FAISS RaBitQ",
        "lookup, times FAISS IndexScalarQuantizer 4 bits": "over FAISS SQ4",
        "search, queries/s": "queries/s",
        "search, times FAISS IndexRaBitQ": "over FAISS RaBitQ",
        "search, times FAISS IndexScalarQuantizer 4 bits": "over FAISS SQ4",
        "bytes/row": "bytes/row",
        "relative squared error": "error",
        "recall@10 against exact scores of decoded rows": "recall@10",
    }
    text = f"\n## Codes that need no training: {result['rows']:,} normal rows of {result['dim']}, "
    text += (
        f"{result['threads']} threads\n\nTargets: lookups 5 times and searches twice FAISS's RaBitQ. Recall is against "
    )
    text += "exact scores of the decoded rows.\n\n"
    text += "| | " + " | ".join(columns.values()) + " |\n|---|" + "---:|" * len(columns) + "\n"
    for name, values in result["results"].items():
        text += f"| {name} | " + " | ".join(_digits(values[c], 3) if c in values else "" for c in columns) + " |\n"
    return text


def _product(result: dict[str, Any]) -> str:
    figures = result["figures"]
    total = figures["fit, s"] + figures["encode, s"]
    peer = figures["fit of FAISS, s"] + figures["encode of FAISS, s"]
    text = f"\n## Product codes of 32 bytes: {result['rows']:,} x {result['dim']}, {result['threads']} threads\n\n"
    text += f"Target: fit and encode together no longer than FAISS: {total:.2f} s, FAISS {peer:.2f} s, "
    text += f"{_verdict(total, peer, low=True)}.\n\n| | |\n|---|---:|\n"
    return text + "".join(f"| {name} | {_digits(value, 4)} |\n" for name, value in figures.items())


def _lookups(result: dict[str, Any]) -> str:
    """Of 16 to 64 bytes a row without a rotation, lookups are also to be no slower than numpy.take."""
    text = f"\n## Lookups of trained codes: {result['rows']:,} x {result['dim']}, uniform ids\n\n"
    text += (
        "Table and FAISS index hold the same codes; `numpy.take` reads float32 rows on one thread. Targets: 5 times\n"
    )
    text += "FAISS's `reconstruct_batch`; product codes of 16, 32 and 64 bytes no slower than `numpy.take`.\n\n"
    text += "| code | bytes a row | threads | M rows/s | FAISS | numpy.take | over FAISS | over numpy.take |\n"
    text += "|---|---:|---:|---:|---:|---:|---:|---:|\n"
    for row in result["results"]:
        rates, over = row["M rows/s"], row["over"]
        cells = [f"{over['FAISS']:.1f}" + (" (missed)" if over["FAISS"] < 5 else "")]
        slow = row["code"] in ("PQ16", "PQ32", "PQ64") and over["numpy.take"] < 1
        cells.append(f"{over['numpy.take']:.2f}" + (" (missed)" if slow else ""))
        text += f"| `{row['code']}` | {row['bytes']:.0f} | {row['threads']} | {rates['embstore']:.1f} | "
        text += f"{rates['FAISS']:.2f} | {rates['numpy.take']:.1f} | {' | '.join(cells)} |\n"
    return text


def _retrieval(result: dict[str, Any]) -> str:
    text = f"\n## Search: {result['num_embeddings']:,} x {result['embedding_dim']}, {result['threads']} threads\n\n"
    text += f"The {result['k']} nearest by inner product; recall against float32 of the original rows.\n"
    text += "Targets for int8: a batch of 100 at 8 x FAISS SQ8 and 15 x USearch int8,\n"
    text += "one query at 2 x both, recall 0.99. For pq of 4 bits: the speed of FAISS's fast scan of as many codes.\n\n"
    peers = list(dict.fromkeys(peer for row in result["rows"] for peer in row["over"]))
    text += "| queries at once | who | queries/s | recall | " + " | ".join(f"x {peer}" for peer in peers) + " |\n"
    text += "|---:|---|---:|---:|" + "---:|" * len(peers) + "\n"
    targets = {(1, "FAISS SQ8"): 2, (1, "USearch int8"): 2, (100, "FAISS SQ8"): 8, (100, "USearch int8"): 15}
    for row in result["rows"]:
        cells = []
        for peer in peers:
            target = targets.get((row["batch"], peer)) if row["name"] == "embstore int8" else None
            if "x4" in row["name"] and peer == f"FAISS {row['name'].split()[1].upper()}fs":
                target = 1
            short = target is not None and row["over"][peer] < target
            cells.append(f"{row['over'][peer]:.1f}" + (" (missed)" if short else ""))
        missed = row["name"] == "embstore int8" and row["recall"] < 0.99
        recall = f"{row['recall']:.3f}" + (" (missed)" if missed else "")
        text += f"| {row['batch']} | {row['name']} | {row['queries_per_s']:.0f} | {recall} | "
        text += " | ".join(cells) + " |\n"
    return text


def _words(result: dict[str, Any]) -> str:
    plain = result["rows"][0]["scores"]
    text = f"\n## Words: {result['table']}\n\n"
    text += "Spearman's correlation with human judgements, and analogies answered by 3CosAdd.\n"
    text += "Allowed drop from float32: 0.001 at 8 bits, 0.01 at 4, 0.03 at 2. Bits are those of the codes; of the\n"
    text += "whole table where a budget is given and for mgqe, whose counts are 1 / rank. Error is\n"
    text += "sum((decoded - x)²) / sum(x²) over all words, rare ones too.\n\n"
    text += (
        "| method | bytes per row | error | " + " | ".join(plain) + " |\n|---|---:|---:|" + "---:|" * len(plain) + "\n"
    )
    for row in result["rows"]:
        cells = []
        for name, score in row["scores"].items():
            missed = row["allowed"] is not None and plain[name] - score > row["allowed"]
            cells.append(f"{score:.4f}" + (" (missed)" if missed else ""))
        text += f"| {row['spec']} | {row['bytes_per_row']:.2f} | {row['error']:.2e} | " + " | ".join(cells) + " |\n"
    names = [name for name in plain if name != "analogies"]
    text += "\nWhy `int2` scores above float32, see the notes:\n\n| rows | " + " | ".join(names) + " |\n|---|"
    text += "---:|" * len(names) + "\n"
    for what, scores in result["controls"].items():
        text += f"| {what} | " + " | ".join(f"{scores[name]:.4f}" for name in names) + " |\n"
    return text


def _vectors(result: dict[str, Any]) -> str:
    text = "\n## Error and recall for the bytes\n\nEverything counted: codes, codebooks, scales, rotations. Error is "
    text += (
        "sum((decoded - x)²) / sum(x²); recall is that of the 10 exact neighbours. A peer may use 1 % more than the "
    )
    text += (
        "budget; its best error and its best recall may be of two methods. Targets: error at most the peer's, recall "
    )
    text += "at least the peer's less 0.005.\n"
    for table in result["tables"]:
        text += f"\n{table['table']}, {table['metric']}:\n\n"
        text += "| bits a value | ours | error | recall | peer by error | error | ratio | peer by recall | recall |\n"
        text += "|---:|---|---:|---:|---|---:|---:|---|---:|\n"
        for row in table["budgets"]:
            cells = [f"{row['budget']:g}"]
            mine, peer, best = row["ours"], row["peer"], row["recall"]
            cells += (
                [f"`{mine['method']}`", f"{mine['error']:.2e}", f"{mine['recall']:.3f}"] if mine else ["none", "", ""]
            )
            cells += [peer["method"], f"{peer['error']:.2e}"] if peer else ["none", ""]
            ratio = ""
            if mine and peer:
                ratio = f"{mine['error'] / peer['error']:.2f}" if peer["error"] else "exact"
                ratio += " (missed)" if mine["error"] > peer["error"] else ""
            cells += [ratio]
            short = mine and best and mine["recall"] < best["recall"] - 0.005
            cells += (
                [best["method"], f"{best['recall']:.3f}" + (" (missed)" if short else "")] if best else ["none", ""]
            )
            text += "| " + " | ".join(cells) + " |\n"
        reasons: dict[str, list[str]] = {}
        for method, reason in table.get("left out", {}).items():
            reasons.setdefault(reason, []).append(method)
        for reason, methods in reasons.items():
            text += f"\nLeft out, {reason}: {', '.join(methods)}.\n"
    return text


PARTS = (
    ("kernels", _kernels), ("tables", _tables), ("errors", _errors), ("codes", _codes), ("product", _product),
    ("lookups", _lookups), ("vectors", _vectors),
    ("retrieval", _retrieval), ("words", _words), ("modules", _modules),
)  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Error against bits a value, ours beside the peers, a panel for each table."""
    from matplotlib.figure import Figure

    tables = result["tables"]
    figure = Figure(figsize=(4.6 * len(tables), 4.2), layout="constrained")
    for axis, table in zip(np.atleast_1d(figure.subplots(1, len(tables), sharey=True)), tables, strict=True):
        peers = [r for r in table["all"] if "budget" not in r]
        kinds = {"FAISS": ("x", "#999999"), "bitsandbytes": ("^", "#c46a1b")}
        for start, (mark, color) in kinds.items():
            own = [r for r in peers if r["method"].startswith(start)]
            if own:
                axis.plot([r["bpd"] for r in own], [r["error"] for r in own], mark, color=color, ms=5, label=start)
        best = [row["ours"] for row in table["budgets"] if row["ours"] and row["ours"]["error"] > 0]
        axis.plot([r["bpd"] for r in best], [r["error"] for r in best], "o-", color="#1f5fa8", label="embstore")
        axis.set(xscale="log", yscale="log", xlabel="bits a value, everything counted", title=table["table"])
        axis.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
        axis.legend()
    np.atleast_1d(figure.axes)[0].set_ylabel("relative squared error")
    figure.savefig(path, dpi=110)


def main() -> None:
    text = INTRO
    vectors = load("vectors")
    if vectors is not None:
        picture(vectors, PAGE.with_name("error-for-the-bytes.png"))
    for name, write in PARTS:
        result = load(name)
        if result is not None:
            made = result["environment"]
            versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items() if v)
            text += (
                write(result)
                + f"\n*{made['date']}, commit {made['commit']}, {made['cpu']}, {made['cores']} cores, {versions}.*\n"
            )
    notes = PAGE.with_name("performance-notes.md")
    if notes.exists():
        text += "\n" + notes.read_text()
    PAGE.write_text(text)
    print(PAGE)
