"""`python -m bench published`: tables say what the runs say, between their markers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from bench.html import published, runs, summary
from bench.html.page import build
from tests.ctr_lines import generated, write
from tests.html_tree import sound


def published_root(root: Path) -> Path:
    """A repository with the files and markers that `published` needs, and generated lines of two data sets."""
    folder = root / "docs" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("generated-a", "generated-b"):
        write(folder / f"{name}.jsonl", generated([name], ["hash", "int8", "dhe"]))

    def between(name: str) -> str:
        return published.BEGIN.format(name) + published.END.format(name)

    (root / "README.md").write_text("before\n" + between("best methods") + "after\n")
    (folder / "README.md").write_text(between("generated-b") + "between\n" + between("generated-a"))
    return root


def test_the_published_tables_say_what_the_runs_say(tmp_path, capsys):
    root = published_root(tmp_path)
    assert published.main(["--check"], root) == 1
    assert "README.md is not what the runs say; run `python -m bench published`" in capsys.readouterr().err
    assert published.main([], root) == 0
    assert published.main(["--check"], root) == 0
    text = (root / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| of the float32 bytes | generated-a | generated-b |" and len(rows) == 2 + 5
    lines = [json.loads(each) for each in (root / "docs/benchmarks/generated-a.jsonl").read_text().splitlines()]

    def mean(method: str, budget: float | None) -> float:
        return statistics.fmean(
            r["test_auc"] for r in lines if (r["method"], r["budget"]) == (method, budget) and "test_auc" in r
        )

    least = min(mean("float32", None) - mean(method, 0.5) for method in ("hash", "int8", "dhe"))
    assert f"{abs(least):.4f}" in rows[2].split("|")[2]
    page = (root / "docs/benchmarks/README.md").read_text()
    assert page.index("`hash`") < page.index("between\n") < page.rindex("`hash`")
    loss = mean("float32", None) - mean("hash", 0.25)
    row = next(line for line in page[page.index("between") :].splitlines() if line.startswith("| `hash`"))
    assert f"{abs(loss):.4f} ±" in row.split("|")[3]
    sound((root / "docs/benchmarks/report.html").read_text())


def test_times_are_of_the_runs_made_for_them(tmp_path):
    lines = generated(["generated-a"], ["hash", "int8"], seeds=2)
    hashed = {"method": "hash", "budget": 0.5, "seed": 0}
    again = [one for one in lines if hashed.items() <= one.items()]
    shorter = [dict(again[0], settings={"batch": 4096, "lr": 0.005, "epochs": 1}, method="int8", step_ms=7.0)]
    again = [dict(again[0], step_ms=5.0, seconds=6.0, test_auc=0.5), *shorter]
    files = [write(tmp_path / name, made) for name, made in (("a.jsonl", lines), ("b.jsonl", again))]
    found = runs.timed_by(runs.read(files[:1]), files[1:])
    assert [len(found.runs), len(found.timed), found.files] == [len(lines), 2, ["a.jsonl", "b.jsonl"]]
    task = summary.tasks(found.runs)[0]
    assert {c.name for c in task.measured("step_ms")} == {"hash at 50 %", "int8 at 50 %"}
    assert {c.name for c in task.measured("seconds")} == {"hash at 50 %"}
    cell = task.cell("hash", 0.5)
    assert [cell.values(m) for m in ("step_ms", "seconds")] == [[5.0], [6.0]]
    assert cell.values("test_auc") == [
        one["test_auc"] for one in lines if hashed.items() - {("seed", 0)} <= one.items()
    ]
    assert task.cell("int8", 0.5).values("step_ms") == [7.0]
    assert len(task.measured("peak_mb")) > 2  # not of time
    page, _ = build(found)
    sound(page)
    assert "Times are of runs that were made again for them; others have none." in page

    root = published_root(tmp_path / "root")
    (root / "docs/benchmarks/times").mkdir()
    write(root / "docs/benchmarks/times/generated-a.jsonl", again)
    assert published.main([], root) == 0
    assert "made again for them" in (root / "docs/benchmarks/report.html").read_text()


def test_a_missing_marker_is_named(tmp_path):
    root = published_root(tmp_path)
    (root / "README.md").write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"README\.md must have the lines '<!-- best methods"):
        published.main([], root)
