"""`python -m bench published`: tables say what the runs say, between their markers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from bench.html import published
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


def test_a_missing_marker_is_named(tmp_path):
    root = published_root(tmp_path)
    (root / "README.md").write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"README\.md must have the lines '<!-- best methods"):
        published.main([], root)
