"""`python -m bench learn`: resumes, records what a budget refuses, and names what misses its bound."""

import json

import pytest

from bench import ctr_data

pytest.importorskip("torch")
from bench import learn


@pytest.fixture
def small(monkeypatch, tmp_path):
    settings = {"small": {"model": "dlrm", "batch": 1000, "lr": 0.01, "epochs": 1}}
    monkeypatch.setattr(learn, "SETTINGS", settings)
    monkeypatch.setattr(learn, "FILE", tmp_path / "learn.jsonl")
    monkeypatch.setattr(ctr_data, "load", lambda name: ctr_data.generated(4000, (200, 100, 4)))
    return tmp_path / "learn.jsonl"


def test_it_resumes(small, monkeypatch, capsys):
    arguments = ["--data", "small", "--methods", "int8", "--budgets", "0.5", "0.1", "--seeds", "0"]
    learn.main(arguments)
    runs = [json.loads(line) for line in small.read_text().splitlines()]
    assert [(r["method"], r["budget"]) for r in runs] == [("float32", None), ("int8", 0.5), ("int8", 0.1)]
    assert 0.25 <= runs[1]["ratio"] < 0.27 and 0 < runs[1]["valid_auc"] < 1
    assert "needs at least" in runs[2]["reason"] and "valid_auc" not in runs[2]
    monkeypatch.setattr(learn, "train", lambda *_: pytest.fail("a run that is there is not done again"))
    learn.main(arguments)
    assert len(small.read_text().splitlines()) == 3
    assert "small: full table" in capsys.readouterr().out


def test_the_report_names_what_misses_a_bound():
    def run(method, budget, auc, data="frappe"):
        settings = {"settings": learn.SETTINGS[data], "seed": 0, "popularity": 0.7, "ratio": budget}
        return {"data": data, "method": method, "budget": budget, "valid_auc": auc, **settings}

    text = learn.report(
        [
            run("float32", None, 0.9),
            run("int8", 0.5, 0.895),
            run("hash", 0.5, 0.85),
            run("hash", 0.1, 0.69),
            {**run("int8", 0.1, 0.5), "reason": "refused"},
        ]
    )
    lines = text.splitlines()
    assert len(lines) == 4
    assert "BELOW" not in lines[1] and "POPULARITY" not in lines[1]
    assert "BELOW THE FULL TABLE" in lines[2] and "POPULARITY" not in lines[2]
    assert "BELOW" not in lines[3] and "NOT ABOVE POPULARITY" in lines[3]
