"""`python -m bench report RESULTS…`: the page says what the runs say, needs nothing else, and survives odd input."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from bench.html import __main__ as command
from bench.html import page, runs, summary, svg, tables
from tests.ctr_lines import generated, line, write
from tests.html_tree import Tree, sound

RESULTS = Path(__file__).parents[1] / "bench" / "results"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return runs.read([write(tmp_path_factory.mktemp("generated") / "ctr.jsonl", generated())])


@pytest.fixture(scope="module")
def built(material):
    return page.build(material)


def made(tmp_path: Path, lines: list[dict]) -> str:
    return page.build(runs.read([write(tmp_path / "ctr.jsonl", lines)]))[0]


def test_the_page_is_html_with_every_chart_told(built):
    tree = sound(built[0])
    charts = [e for e in tree.of("svg") if "chart" in (e[1].get("class") or "")]
    assert len(charts) > 20
    assert all(e[1]["role"] == "img" and e[1]["aria-labelledby"] for e in charts)
    assert [e[1]["lang"] for e in tree.of("html")] == ["en"]
    assert {"narrow", "broad"} <= {c for e in charts for c in e[1]["class"].split()}


def test_the_page_needs_nothing_else(built):
    content = built[0]
    assert "://" not in content and not re.search(r"@import|url\(|<script|<link|<img", content)
    links = [v for _, a, _ in Tree(content).found for k, v in a.items() if k in ("href", "src")]
    assert links and all(v.startswith(("#", "data:text/csv;")) for v in links)


def _contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.1."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("number", range(3), ids=["light", "dark", "print"])
def test_text_stands_out(number):
    style = (Path(page.__file__).parent / "style.css").read_text(encoding="utf-8")
    given = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[number]))
    pairs = [("ink", name) for name in ("paper", "card", *(f"h{i}" for i in range(5)), *(f"t{i}" for i in range(4)))]
    pairs += [("soft", "paper"), ("soft", "card"), ("link", "paper"), ("h5-ink", "h5"), ("t4-ink", "t4")]
    low = {pair: _contrast(given[pair[0]], given[pair[1]]) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    assert all(_contrast(given[f"s{i}"], given["paper"]) >= 3 for i in range(8))


def test_a_heat_map_shows_means_of_runs(built):
    lines = [run for run in generated() if not math.isnan(run.get("test_auc", 0))]

    def mean(data, method, budget):
        own = [r for r in lines if (r["data"], r["method"], r["budget"]) == (data, method, budget)]
        found = [r["test_auc"] for r in own if "reason" not in r]
        return statistics.mean(found) if found else None

    content = built[0]
    cells = 0
    for data in ("generated-a", "generated-b"):
        start = content.index(f"Test AUC lost against the full table: {data}")
        tree = Tree("<svg>" + re.search(r"<desc.*?</svg>", content[start:]).group())
        shown = {(e[1]["data-method"], float(e[1]["data-budget"])): (float(e[1]["data-loss"]), e) for e in tree.of("g")}
        for method, budget in {(r["method"], r["budget"]) for r in lines if r["budget"] is not None}:
            wanted = mean(data, method, budget)
            assert (wanted is None) == ((method, budget) not in shown)
            if wanted is not None:
                loss, (_, _, text) = shown[method, budget]
                assert loss == pytest.approx(mean(data, "float32", None) - wanted, abs=1e-12)
                assert text[-1] in (f"{abs(loss):.4f}", f"+{-loss:.4f}")
                cells += 1
    assert cells == 2 * (24 * 5 - 3 - 4 - 4 - 3 - 1)


def test_blank_cells_say_why(built):
    assert built[0].count("int8 at 10 %: generated: int8 needs 0.25 of the bytes") >= 2  # on the cell and in the list
    assert "1 of 3 runs failed" in next(t for t in built[1] if t.name == "means-1").csv()


points = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 2), max_size=30)


@given(points)
def test_the_front_is_what_nothing_dominates(found):
    def dominates(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    wanted = [i for i, p in enumerate(found) if not any(dominates(q, p) for q in found)]
    assert sorted(summary.pareto(found)) == wanted


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 2), min_size=2, max_size=12))
def test_tau_is_that_of_scipy(found):
    a, b = ({0.1: {str(i): float(p[k]) for i, p in enumerate(found)}} for k in (0, 1))
    wanted = kendalltau(*zip(*found, strict=True)).statistic
    known = summary.tau(a, b)
    if known is None:
        assert np.isnan(wanted)
    else:
        assert known == (pytest.approx(wanted, abs=1e-12), math.comb(len(found), 2))


def test_tau_compares_within_a_budget_only():
    a = {0.5: {"x": 0.9, "y": 0.8}, 0.1: {"x": 0.5, "y": 0.6}}
    assert summary.tau(a, a) == (1.0, 2)
    assert summary.tau(a, {0.5: a[0.5], 0.1: {"x": 0.6, "y": 0.5}}) == (0.0, 2)
    assert summary.tau(a, {0.25: a[0.5]}) is None


def test_tables_come_back_from_csv(built):
    content, files = built
    links = {e[1]["download"]: e[1]["href"] for e in Tree(content).of("a") if "download" in e[1]}
    assert len(files) == len({t.name for t in files}) and {f"{t.name}.csv" for t in files} == set(links)
    for table in files:
        text = base64.b64decode(links[f"{table.name}.csv"].split(",", 1)[1]).decode()
        header, *rows = csv.reader(io.StringIO(text))
        assert header == [c.title for c in table.columns] and len(rows) == len(table.rows) > 0
        for read, row in zip(rows, table.rows, strict=True):
            for was, is_ in zip(row, read, strict=True):
                assert is_ == "" if was is None else (type(was)(is_) == was)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"))


@given(st.lists(st.tuples(texts, st.floats(allow_nan=False), st.integers()), max_size=8))
def test_any_value_comes_back_from_csv(rows):
    table = tables.Table("any", [tables.Column(t) for t in ("text", "float", "int")], rows)
    _, *read = csv.reader(io.StringIO(table.csv(), newline=""))
    assert [(t, float(f), int(i)) for t, f, i in read] == rows


def test_advice_keeps_its_word(material):
    from bench.html.advice import advise

    task = summary.tasks(material.runs)[0]
    smallest, best, tiny, fast, cheap = advise(task)
    losses = {c.name: (c.mean("ratio"), task.loss(c)) for c in task.measured("ratio", "test_auc")}
    assert losses[smallest.cell.name][0] == min(size for size, loss in losses.values() if loss <= 0.001)
    assert losses[best.cell.name][1] == min(loss for size, loss in losses.values() if size < 0.1001)
    assert losses[tiny.cell.name][1] == min(loss for size, loss in losses.values() if size < 0.01001)
    for pick, measure in ((fast, "serve_128"), (cheap, "seconds_to_best")):
        able = [c for c in task.cells if c is not task.full and task.loss(c) is not None and task.loss(c) <= 0.01]
        assert pick.cell.mean(measure) == min(c.mean(measure) for c in able)
    assert all("3 runs" in a.why and "±" in a.why for a in (smallest, best, tiny, fast, cheap))


def test_lines_with_few_keys(tmp_path):
    cells = (("float32", None), ("hash", 0.5), ("int8", 0.25))
    few = [line(m, b, seed, test_auc=0.9, seconds=1.0) for seed in (0, 1) for m, b in cells]
    content, files = page.build(runs.read([write(tmp_path / "few.jsonl", few)]))
    tree = sound(content)
    words = "".join(tree.found[0][2])
    missing = "the time of a training step, the time to the best model, the latency of a lookup, peak memory"
    assert f"No run has {missing}." in words
    assert "no run has such a time" in words
    assert len(next(t for t in files if t.name == "runs").rows) == len(few)


@pytest.mark.parametrize("kind", ["retrieval", "words"])
def test_sections_of_finished_tables(kind):
    content, files = page.build(runs.read([RESULTS / f"{kind}.json"]))
    tree = sound(content)
    assert [e[1]["id"] for e in tree.of("section")] == [kind, "environment"]
    result = json.loads((RESULTS / f"{kind}.json").read_text())
    assert len(next(t for t in files if t.name == kind).rows) == len(result["rows"])


def test_a_section_of_vectors(tmp_path):
    row = {"kind": "PQ", "method": "generated PQ", "bpd": 1.0, "error": 0.1, "recall": 0.5}
    other = {**row, "kind": "embstore", "method": "pq", "error": 0.05}
    table = {
        "table": "generated",
        "metric": "l2",
        "budgets": [{"budget": 1, "ours": other, "peer": row, "recall": None}],
    }
    (tmp_path / "vectors.json").write_text(json.dumps({"tables": [table]}))
    content, files = page.build(runs.read([tmp_path / "vectors.json"]))
    sound(content)
    assert [list(r) for r in files[0].rows] == [["pq", 1.0, 0.05, 0.5], ["generated PQ", 1.0, 0.1, 0.5]]
    table["budgets"][0]["ours"] = {"method": "pq"}
    (tmp_path / "vectors.json").write_text(json.dumps({"tables": [table]}))
    with pytest.raises(runs.InputError, match=r"vectors\.json: expected what `python -m bench vectors` writes"):
        page.build(runs.read([tmp_path / "vectors.json"]))


FULL = line("float32", None, 0, test_auc=0.9)
ODD = {
    "only the full table": ([FULL], "The full table is the only method"),
    "one seed, one method": ([FULL, line("hash", 0.1, 0, test_auc=0.8)], "no error bars"),
    "no full table": ([line("hash", 0.1, s, test_auc=0.8) for s in (0, 1)], "There is no run of the full table"),
    "only refusals": ([line("int8", 0.1, 0, reason="too small")], "No run has a test AUC"),
    "no sizes": ([FULL, line("hash", 0.1, 0, test_auc=0.8, ratio=None)], "no run of a compressed table has its size"),
    "no seeds": ([{"data": "d", "method": m, "test_auc": 0.5} for m in ("float32", "hash")], "0.5000"),
    "all alike": ([FULL, *(line(m, 0.1, 0, test_auc=0.9) for m in ("a", "b"))], "Fewer than two rankings"),
    "zero costs": ([FULL, line("a", 0.1, 0, test_auc=0.9, step_ms=0.0, serve={"1": 0})], "Training step"),
    "a wide range": ([FULL, *(line("m", b, 0, test_auc=0.9, ratio=b) for b in (0.5, 1e-6))], "0.0001 %"),
    "a wide range of costs": (
        [FULL, *(line("m" * i, 0.1, 0, test_auc=0.9, step_ms=10.0**i) for i in (1, 4))], "logarithmic axis"
    ),
    "a budget in bytes": ([FULL, line("a", 4096, 0, ratio=0.1, test_auc=0.8)], "4,096 bytes"),
    "two settings": ([FULL, line("float32", None, 0, test_auc=0.9, settings={"batch": 1, "lr": 0.1})], "lr 0.1"),
    "two rates of one run": ([FULL, {**FULL, "settings": {"batch": 4096, "lr": 0.1}}], "generated-a, dlrm, lr 0.1"),
    "rates chosen by method": (
        [FULL, line("a", 0.1, 0, test_auc=0.8, settings={"batch": 4096, "lr": 0.1})], "lr by method and budget"
    ),
    "lengths of stages by method": (
        [FULL, line("a", 0.1, 0, test_auc=0.8, settings={**FULL["settings"], "stage_epochs": 1})],
        "stage_epochs by method and budget",
    ),
    "two sources": ([FULL, {**FULL, "source": {"kind": "other"}}], "generated-a, dlrm, source kind other"),
    "two configs": ([FULL, *(line("a", 0.1, 0, test_auc=0.8, config={"k": k}) for k in (1, 2))], "a (k=2)"),
    "a repeated run": ([FULL, {**FULL, "test_auc": 0.7}], "1 lines repeat a run"),
    "worse than popularity": (
        [FULL, line("a", 0.1, 0, test_auc=0.6, valid_auc=0.6, popularity=0.7)],
        "no better than popularity alone (validation AUC 0.6000 against 0.7000)",
    ),
    "a diverged run": (
        [FULL, line("a", 0.1, 0, test_auc=math.nan), line("b", 0.1, 0, reason="no")],
        "1 more cannot reach their budget; 1 diverged",
    ),
    "names that are markup": ([FULL, line("<b>&\"'</svg>", 0.1, 0, test_auc=0.8)], "<b>&"),
    "data that is markup": ([{**FULL, "data": "</title>&lt;"}], "</title>&lt;, dlrm"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "said"), ODD.values(), ids=ODD)
def test_odd_input_makes_a_page(tmp_path, lines, said):
    tree = sound(made(tmp_path, lines))
    assert said in "".join(tree.found[0][2])


WRONG = {
    "{": "line 2: expected one JSON object, found text that is none",
    "[1]": "line 2: a run is a JSON object, found [1]",
    '{"method": "hash"}': "line 2: a run needs data as text, found none",
    '{"data": "d", "method": 3}': "line 2: a run needs method as text, found 3",
    '{"data": "d", "method": "m", "test_auc": "high"}': 'line 2: test_auc must be a number, found "high"',
    '{"data": "d", "method": "m", "test_auc": 2}': "line 2: test_auc lies between 0 and 1, found 2",
    '{"data": "d", "method": "m", "seed": 0.5}': "line 2: seed must be an integer, found 0.5",
    '{"data": "d", "method": "m", "budget": -1}': "line 2: budget must be positive, found -1",
    '{"data": "d", "method": "m", "serve": 3}': "line 2: serve must be an object, found 3",
    '{"data": "d", "method": "m", "version": 2}': "line 2: a run must be of version 1, found 2",
    '{"data": "d", "method": "m", "ratio": 0}': "line 2: ratio must be positive, found 0",
}


@pytest.mark.parametrize(("bad", "said"), WRONG.items(), ids=WRONG)
def test_a_bad_line_is_named(tmp_path, capsys, bad, said):
    (tmp_path / "ctr.jsonl").write_text(json.dumps(FULL) + "\n" + bad + "\n")
    assert command.main([str(tmp_path / "ctr.jsonl"), "--out", str(tmp_path / "page.html")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"ctr.jsonl, {said}") and told.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_line_cut_off_at_the_end_is_left_out(tmp_path):
    (tmp_path / "ctr.jsonl").write_text(json.dumps(FULL) + "\n" + json.dumps(FULL)[:40])
    material = runs.read([tmp_path / "ctr.jsonl"])
    assert len(material.runs) == 1
    assert material.notes == ["ctr.jsonl, line 2 is cut off and left out: the benchmark was writing it, or was ended."]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ctr.jsonl", b"", "expected at least one run, found none"),
        ("ctr.jsonl", b"\xff\xfe", "expected UTF-8 text"),
        ("words.json", b"{", "line 1: expected JSON"),
        ("codes.json", b"{}", "expected at least one run"),
        ("gone.jsonl", None, "cannot be read"),
    ],
)
def test_a_file_of_nothing_is_named(tmp_path, capsys, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert command.main([str(tmp_path / name), "--out", str(tmp_path / "page.html")]) == 2
    told = capsys.readouterr().err
    assert name in told and said in told


def test_a_diverged_run_is_no_result(tmp_path):
    material = runs.read([write(tmp_path / "ctr.jsonl", [FULL, line("hash", 0.1, 0, test_auc=math.nan)])])
    assert material.runs[1].reason == runs.DIVERGED
    assert summary.tasks(material.runs)[0].cell("hash", 0.1).reason == runs.DIVERGED


def test_the_command_writes_page_tables_and_pdf(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    source = write(tmp_path / "ctr.jsonl", generated(data=["generated-$x^"], methods=["hash", "int8"]))
    out = tmp_path / "made" / "page.html"
    assert command.main([str(source), "--out", str(out), "--csv", str(tmp_path / "csv")]) == 0
    sound(out.read_text(encoding="utf-8"))
    assert out.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    names = {f.name for f in (tmp_path / "csv").iterdir()}
    assert {"runs.csv", "means-1.csv", "front-1.csv", "recommendations.csv", "environment.csv"} <= names
    assert str(out) in capsys.readouterr().out


def test_report_alone_is_the_page_of_performance(tmp_path, monkeypatch):
    from bench import __main__ as bench

    written = []
    monkeypatch.setattr(bench.report, "main", lambda: written.append("performance"))
    monkeypatch.setattr(sys, "argv", ["bench", "report"])
    bench.main()
    source = write(tmp_path / "ctr.jsonl", [FULL])
    monkeypatch.setattr(sys, "argv", ["bench", "report", str(source), "--out", str(tmp_path / "page.html"), "--no-pdf"])
    with pytest.raises(SystemExit) as done:
        bench.main()
    assert done.value.code == 0 and (tmp_path / "page.html").exists() and written == ["performance"]


@given(st.floats(-1e3, 1e3), st.floats(1e-5, 1e6), st.integers(1, 12), st.booleans())
def test_ticks_lie_on_the_axis(low, span, count, log):
    axis = svg.Axis(abs(low) + 1e-3, abs(low) + 1e-3 + span, 0, 100, True) if log else svg.Axis(low, low + span, 0, 100)
    found = axis.ticks(count)
    assert all(-0.01 <= axis(v) <= 100.01 for v in found) and found == sorted(set(found))
    assert len(found) <= 2 * count + 4


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=30))
def test_marks_move_a_little_and_only_where_they_must(points):
    moved = svg.swarm(points, 8, 18)
    for i, ((x, y), to) in enumerate(zip(points, moved, strict=True)):
        assert abs(to - x) <= 18
        if all(math.hypot(x - a, y - b) >= 8 for a, (_, b) in zip(moved[:i], points[:i], strict=True)):
            assert to == x


def test_marks_of_one_place_stand_side_by_side():
    moved = svg.swarm([(100, 50)] * 5, 8, 18)
    assert moved[0] == 100 and all(abs(a - b) >= 8 for a, b in itertools.combinations(moved, 2))


def test_words_keep_percent_signs_with_their_numbers():
    assert svg.prose("1 % & 2") == "1\N{NO-BREAK SPACE}% &amp; 2"


def test_labels_cover_nothing():
    labels = svg.Labels((0, 0, 300, 200), 12)
    places = list(itertools.product(range(20, 300, 40), range(20, 200, 40)))
    for x, y in places:
        labels.block(x, y, 4)
    shown = [labels.place(x, y, f"name {i}", "name") for i, (x, y) in enumerate(places)]
    assert 5 < sum(map(bool, shown)) < len(places)
    for a, b in itertools.combinations(labels.taken[len(places) :], 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
