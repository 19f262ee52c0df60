"""`python -m bench ctr`: a killed sweep goes on, a seed decides a run, a line holds what its page says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from bench import ctr, ctr_data, ctr_summary, ctr_tune, metrics, train  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL = (
    "--data", "generated", "--rows", "6000", "--fields", "3", "--features", "900", "--epochs", "1", "--batch", "500",
    "--hidden", "16", "--dim", "8", "--seeds", "0",
)  # fmt: skip
KEYS = {
    "data", "source", "model", "method", "budget", "seed", "settings", "config", "ratio", "nbytes", "nbytes_training",
    "popularity", "valid_auc", "test_auc", "valid_log_loss", "test_log_loss", "test_calibration", "epochs", "seconds",
    "seconds_to_best", "step_ms", "harness_ms", "peak_mb", "export_seconds", "serve", "versions", "machine", "commit",
    "date", "version",
}  # fmt: skip
# What the machine decides, and not the seed.
MEASURED = {"seconds", "seconds_to_best", "step_ms", "harness_ms", "peak_mb", "export_seconds", "serve", "date"}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def options(tmp_path):
    return [*SMALL, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "runs.jsonl")]


def test_lines_have_every_key_and_the_seed_decides_the_rest(options, tmp_path, capsys):
    options += ["--methods", "compo", "int8", "--budgets", "0.5", "0.01", "--jobs", "2"]
    assert ctr.main(options) == 0
    runs = {(r["method"], r["budget"]): r for r in lines(tmp_path / "runs.jsonl")}
    assert list(runs) == list(dict.fromkeys(runs)) and len(runs) == 5
    refused = runs["int8", 0.01]
    assert "needs at least" in refused["reason"] and "valid_auc" not in refused
    compo = runs["compo", 0.5]
    assert set(compo) == KEYS
    assert compo["ratio"] == compo["nbytes"] / (4 * 8 * 900) <= 0.5
    assert 0 < compo["harness_ms"] < compo["step_ms"] and compo["seconds_to_best"] <= compo["seconds"]
    assert set(compo["serve"]) == {"1", "128", "10000", "rows_per_second"} and min(compo["serve"].values()) > 0
    assert 0.5 < compo["test_calibration"] < 2 and compo["peak_mb"] > 0 and compo["export_seconds"] > 0
    assert [own["method"] for own in compo["config"]].count("compo") >= 1 and len(compo["config"]) == 3
    full = runs["float32", None]
    assert full["ratio"] == 1 and full["nbytes_training"] == 3 * full["nbytes"] > compo["nbytes_training"]
    table = capsys.readouterr().out
    assert "dlrm   compo       0.5" in table and "dlrm int8 0.01: method 'int8' needs at least" in table

    again = [*options[:-1], "1", "--out", str(tmp_path / "again.jsonl")]
    again[again.index("--methods") + 2 : again.index("--budgets")] = []  # compo alone
    assert ctr.main(again) == 0
    other = {(r["method"], r["budget"]): r for r in lines(tmp_path / "again.jsonl")}
    for cell in (("float32", None), ("compo", 0.5)):
        assert all(runs[cell][k] == other[cell][k] for k in KEYS - MEASURED)


def test_a_method_beside_one_of_its_forms(options, tmp_path):
    coded = "memcom:table_dtype=int8,sign=false"
    assert ctr.main([*options, "--no-full", "--methods", "memcom", coded, "--budgets", "0.3"]) == 0
    plain, own = lines(tmp_path / "runs.jsonl")
    assert [plain["method"], own["method"]] == ["memcom", coded]
    assert {field.get("table_dtype") for field in own["config"] if field["method"] == "memcom"} == {"int8"}
    assert {field["table_dtype"] for field in plain["config"] if field["method"] == "memcom"} == {"float32"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hash", ("hash", {})),
        ("hash:hash=mix,seed=3", ("hash", {"hash": "mix", "seed": 3})),
        ("pep:x=true,y=0.5", ("pep", {"x": True, "y": 0.5})),
    ],
)
def test_forms(text, found):
    assert ctr.form(text) == found


@pytest.mark.parametrize("text", ["hash:", "hash:a", "hash:a=", "hash:=1", "hash:a=1,a=2", "hash:a=1,"])
def test_what_is_no_form(text, options, capsys):
    with pytest.raises(SystemExit):
        ctr.main([*options, "--methods", text])
    assert f"found {text!r}" in capsys.readouterr().err


def test_a_killed_sweep_goes_on(options, tmp_path):
    file = tmp_path / "runs.jsonl"
    options += ["--methods", "compo", "hash", "--budgets", "0.5", "0.1"]
    command = [sys.executable, "-m", "bench", "ctr", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    sweep = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 240
        while not (file.exists() and len(file.read_text().splitlines()) >= 2):
            assert sweep.poll() is None and time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.kill(sweep.pid, signal.SIGKILL)
        sweep.wait()
    before = file.read_text().splitlines()
    assert len(before) < 5
    with file.open("a") as torn:  # killed while it wrote
        torn.write('{"data": "generated-6000')
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert f"{len(before)} of 5 runs are in" in done.stdout
    after = file.read_text().splitlines()
    assert after[: len(before)] == before and len(after) == 5
    assert len({ctr.key(json.loads(line)) for line in after}) == 5


def test_a_failed_run_is_said_and_not_kept(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ctr, "_process", lambda run, given: {"error": "MemoryError"})
    assert ctr.main([*options, "--methods", "compo", "--budgets", "0.5"]) == 1
    assert "FAILED: MemoryError" in capsys.readouterr().err
    assert not (tmp_path / "runs.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"version": 7, "data": "x"}', "line 1 must be of version 1, found 7; name another --out"),
        ("what", "line 1 must be a JSON object, found 'what'"),
    ],
)
def test_results_that_are_none_of_this_version_are_refused_and_kept(options, tmp_path, capsys, line, says):
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    assert ctr.main([*options, "--methods", "compo", "--budgets", "0.5"]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert (tmp_path / "runs.jsonl").read_text() == line + "\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_asked_for_where_there_is_none(options, tmp_path, capsys):
    assert ctr.main([*options, "--device", "cuda"]) == 2
    assert capsys.readouterr().err.strip().endswith("found none; leave it out to train on the CPU")
    assert not (tmp_path / "runs.jsonl").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_training_on_a_gpu(options, tmp_path):
    assert ctr.main([*options, "--device", "cuda", "--methods", "compo", "int8", "--budgets", "0.5"]) == 0
    assert {run["settings"]["device"] for run in lines(tmp_path / "runs.jsonl")} == {"cuda"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--gpu",), "unrecognized arguments: --gpu"), (("--device", "tpu"), "invalid choice: 'tpu'"),
        (("--methods", "magic"), "methods must be of"), (("--budgets", "2"), "must be above 0 and at most 1, found 2"),
    ],
)  # fmt: skip
def test_options_that_are_none(options, capsys, wrong, says):
    with pytest.raises(SystemExit, match="2"):
        ctr.main([*options, *wrong])
    assert says in capsys.readouterr().err


def test_ten_million_features_train_in_four_gigabytes(tmp_path):
    """`robe` at 1 %: address space, of which memory is a part, is limited for the sweep and for the run."""
    resource = pytest.importorskip("resource")
    command = [
        sys.executable, "-m", "bench", "ctr", "--data", "generated", "--rows", "4000", "--features", "10000000",
        "--methods", "robe", "--budgets", "0.01", "--seeds", "0", "--epochs", "1", "--no-full",
        "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "runs.jsonl"),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4_000_000_000, 4_000_000_000)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = lines(tmp_path / "runs.jsonl")
    assert run["source"]["features"] == 10_000_000 and run["nbytes"] <= 0.01 * 4 * 16 * 10_000_000
    assert 0 < run["peak_mb"] < 1000


def test_tuning_gives_each_method_the_same_trials_and_keeps_the_best(options, tmp_path, monkeypatch):
    def pretended(run, given):
        lr = run["settings"]["lr"]
        reached = {"compo": -abs(lr - 0.001), "hash": lr}.get(run["method"], 0.0)
        serve = {"1": 1, "128": 1, "10000": 1}
        measured = dict.fromkeys(KEYS - set(ctr.KEY), 1.0)
        return {**measured, "valid_auc": 0.7 + reached, "serve": serve}

    monkeypatch.setattr(ctr, "_process", pretended)
    assert (
        ctr.main([*options, "--methods", "compo", "hash", "--budgets", "0.5", "--tune", "4", "--seeds", "3", "4"]) == 0
    )
    trials, runs = lines(tmp_path / "runs.tune.jsonl"), lines(tmp_path / "runs.jsonl")
    assert len(trials) == 3 * 4 and len(runs) == 3 * 2 and {t["seed"] for t in trials} == {3}
    tried = {m: [t["settings"]["lr"] for t in trials if t["method"] == m] for m in ("compo", "hash")}
    assert sorted(tried["compo"]) == sorted(tried["hash"]) and len(set(tried["hash"])) == 4
    chosen = {r["method"]: r["settings"]["lr"] for r in runs}
    assert chosen["hash"] == max(tried["hash"])
    assert chosen["compo"] == min(tried["compo"], key=lambda lr: abs(lr - 0.001))


def test_quick_is_two_budgets_of_one_epoch_and_can_be_changed(options, tmp_path, monkeypatch):
    serve = {"1": 1, "128": 1, "10000": 1}
    measured = {**dict.fromkeys(KEYS - set(ctr.KEY), 1.0), "serve": serve}
    monkeypatch.setattr(ctr, "_process", lambda run, given: measured)
    given = [*options, "--quick", "--methods", "compo", "--lr", "0.5"]
    at = given.index("--epochs")
    assert ctr.main(given[:at] + given[at + 2 :]) == 0
    runs = lines(tmp_path / "runs.jsonl")
    assert sorted((r["method"], r["budget"]) for r in runs if r["budget"]) == [("compo", 0.1), ("compo", 0.5)]
    assert {(r["settings"]["epochs"], r["settings"]["lr"], r["settings"]["batch"]) for r in runs} == {(1, 0.5, 500)}


def test_trials_are_log_uniform_after_the_given_settings():
    trials = ctr_tune.candidates({"lr": 0.5, "embedding_lr": None}, 400)
    assert trials[0] == {"lr": 0.5, "embedding_lr": None}
    assert trials == ctr_tune.candidates({"lr": 0.5, "embedding_lr": None}, 400)
    drawn = np.log([t["lr"] for t in trials[1:]])
    low, high = np.log(ctr_tune.LEAST), np.log(ctr_tune.MOST)
    assert drawn.min() >= low - 0.01 and drawn.max() <= high + 0.01
    assert abs(drawn.mean() - (low + high) / 2) < 0.3


def test_the_survey_has_fourteen_methods_that_exist():
    import embstore.nn

    assert set(ctr.SURVEY) <= set(embstore.nn.names()) and len(ctr.SURVEY) == 15  # int8 and int16 are one of them


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--methods", "nothing"], "found 'nothing'"),
        (["--budgets", "2"], "must be above 0 and at most 1"),
        (["--rows", "0"], "must be 1 or more"),
    ],
)
def test_wrong_options_are_refused(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        ctr.main(arguments)
    assert ended.value.code == 2 and sentence in capsys.readouterr().err


def test_missing_data_is_one_sentence(tmp_path, capsys):
    assert ctr.main(["--data", "criteo", "--path", str(tmp_path / "no"), "--cache", str(tmp_path / "cache")]) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: Criteo Kaggle must be at") and "get it from" in found and found.count("\n") == 1


@pytest.mark.parametrize(("rows", "batch"), [(1000, 64), (2500, 999), (700, 700), (5, 64)])
def test_batches_of_mapped_rows_hold_each_once(monkeypatch, rows, batch):
    monkeypatch.setattr(train, "BLOCK", 64)
    monkeypatch.setattr(train, "WINDOW", 512)
    fields, labels = np.arange(3000)[:, None], np.arange(3000)
    data = ctr_data.Clicks("x", fields, labels, (3000,), range(100, 100 + rows), range(0), range(0), 0)
    first, second = (list(train.batches(data, data.train, batch, np.random.default_rng(seed))) for seed in (0, 1))
    for found in (first, second):
        assert [len(ids) for ids, _ in found[:-1]] == [batch] * (len(found) - 1)
        assert all((ids[:, 0] == own).all() for ids, own in found)
        assert sorted(np.concatenate([own for _, own in found])) == list(range(100, 100 + rows))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


def test_calibration_is_the_mean_prediction_over_the_mean_label():
    assert metrics.calibration([1, 0, 0, 0], [0.0] * 4) == pytest.approx(2)
    assert metrics.calibration([1, 0], [1000.0, -1000.0]) == pytest.approx(1)
    assert np.isnan(metrics.calibration([0, 0], [0.0, 1.0]))


def test_the_table_holds_means_over_seeds():
    run = dict.fromkeys(KEYS, 1.0) | {
        "model": "dlrm",
        "method": "compo",
        "budget": 0.5,
        "step_ms": 4.0,
        "harness_ms": 1.0,
    }
    run["serve"] = {"1": 10.0, "128": 20.0, "10000": 30.0}
    text = ctr_summary.summary([{**run, "valid_auc": 0.7}, {**run, "valid_auc": 0.8, "test_auc": None}])
    assert "0.7500" in text and "10 / 20 / 30" in text and "25.0 % of a step" in text and len(text.splitlines()) == 4


def test_the_summary_names_what_misses_a_bound():
    def run(method, budget, auc, seed=0):
        about = {"data": "frappe", "model": "dlrm", "method": method, "budget": budget, "seed": seed}
        served = dict.fromkeys(("1", "128", "10000"), 1.0)
        return {**dict.fromkeys(KEYS, 0.0), **about, "popularity": 0.7, "valid_auc": auc, "serve": served}

    kept = [run("float32", None, 0.9), run("int8", 0.5, 0.895)]
    (all_well,) = ctr_summary.bounds(kept)
    assert all_well.startswith("all within 0.01 of the full table")
    refused = {**run("int8", 0.1, 0.5), "reason": "refused"}
    missed = [run("hash", 0.5, 0.85), run("hash", 0.5, 0.87, 1), run("hash", 0.1, 0.69), run("tt", 0.1, 0.895)]
    found = [
        "dlrm frappe: hash at 0.5 is 0.0400 below the full table",
        "dlrm frappe: hash at 0.1 is not above popularity",
    ]
    assert ctr_summary.bounds([*kept, *missed, refused]) == found
    assert found[0] in ctr_summary.summary([*kept, *missed, refused]).splitlines()
    assert ctr_summary.bounds([refused]) == []
