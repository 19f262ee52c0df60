"""What the benchmarks wrote, read and checked: lines of `bench ctr`, JSON of the others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FULL = "float32"
VERSION = 1  # of a line; lines without one are of the first
DIVERGED = "its test AUC is not a number: the training diverged"


class InputError(ValueError):
    """A file of results that cannot be read: one sentence that names the file, and the line where there is one."""


@dataclass(frozen=True)
class Measure:
    title: str
    unit: str


MEASURES = {
    "ratio": Measure("stored bytes / float32", ""),
    "nbytes": Measure("stored", "bytes"),
    "nbytes_training": Measure("training", "bytes"),
    "valid_auc": Measure("validation AUC", ""),
    "test_auc": Measure("test AUC", ""),
    "valid_log_loss": Measure("validation log loss", "nats"),
    "test_log_loss": Measure("test log loss", "nats"),
    "test_calibration": Measure("test calibration", ""),
    "popularity": Measure("validation AUC of popularity", ""),
    "step_ms": Measure("training step", "ms"),
    "harness_ms": Measure("harness's share of a step", "ms"),
    "seconds": Measure("training", "s"),
    "seconds_to_best": Measure("time to best", "s"),
    "peak_mb": Measure("peak memory", "MB"),
    "export_seconds": Measure("export", "s"),
    "serve_1": Measure("lookup, batch of 1", "µs"),
    "serve_128": Measure("lookup, batch of 128", "µs"),
    "serve_10000": Measure("lookup, batch of 10,000", "µs"),
    "serve_rows_per_second": Measure("lookup", "rows/s"),
}

# What depends on what else the machine does, for a step or a lookup; and of a whole training, which its epochs decide.
TIMES = (
    "step_ms", "harness_ms", "export_seconds", "serve_1", "serve_128", "serve_10000", "serve_rows_per_second",
)  # fmt: skip
DURATIONS = ("seconds", "seconds_to_best")


@dataclass(frozen=True)
class Run:
    """One training, or why there is none; `measures` has what its line has of MEASURES, `where` is file and line."""

    data: str
    model: str
    method: str
    budget: float | None
    seed: int | None
    settings: str
    config: str
    reason: str | None
    measures: dict[str, float]
    environment: str
    commit: str
    date: str
    where: str


@dataclass
class Material:
    runs: list[Run] = field(default_factory=list)
    offline: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    timed: list[Run] = field(default_factory=list)  # that all times are of, if any


def plain(value: Any) -> str:
    """A dictionary as "key value, key value"; whatever else as it prints."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items() if v is not None)
    return "" if value is None else str(value)


def _number(key: str, value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{where}: {key} must be a number, found {json.dumps(value)[:60]}; mend or remove the line")
    return float(value)


def _text(line: dict[str, Any], key: str, where: str) -> str:
    value = line.get(key)
    if not isinstance(value, str) or not value:
        found = json.dumps(value)[:60] if key in line else "none"
        raise InputError(f"{where}: a run needs {key} as text, found {found}; mend or remove the line")
    return value


def run(line: Any, where: str) -> Run:
    """One parsed line as a Run; InputError where it is none."""
    if not isinstance(line, dict):
        raise InputError(f"{where}: a run is a JSON object, found {json.dumps(line)[:60]}; mend or remove the line")
    if line.get("version", VERSION) != VERSION:
        found = json.dumps(line["version"])[:60]
        raise InputError(
            f"{where}: a run must be of version {VERSION}, found {found}; run the benchmark of that version"
        )
    data, method = _text(line, "data", where), _text(line, "method", where)
    settings = line.get("settings") or {}
    config = line.get("config") or {}
    if isinstance(config, list):  # what was stored for each field: it follows from the rest
        config = {}
    serve, source = line.get("serve") or {}, line.get("source") or {}
    for key, value in (("settings", settings), ("config", config), ("serve", serve), ("source", source)):
        if not isinstance(value, dict):
            raise InputError(f"{where}: {key} must be an object, found {json.dumps(value)[:60]}; mend the line")
    seed = line.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InputError(f"{where}: seed must be an integer, found {json.dumps(seed)[:60]}; mend or remove the line")
    budget = _number("budget", line.get("budget"), where)
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise InputError(f"{where}: budget must be positive, found {budget}; mend or remove the line")
    given = {**{f"serve_{k}": v for k, v in serve.items()}, **line}
    measures = {}
    for key in MEASURES:
        value = _number(key, given.get(key), where)
        if value is not None and math.isfinite(value):
            measures[key] = value
    reason = line.get("reason")
    if reason is None and line.get("test_auc") is not None and "test_auc" not in measures:
        reason = DIVERGED
    if not 0 <= measures.get("test_auc", 0.0) <= 1:
        raise InputError(f"{where}: test_auc lies between 0 and 1, found {measures['test_auc']:g}; mend the line")
    if measures.get("ratio", 1.0) <= 0:
        raise InputError(f"{where}: ratio must be positive, found {measures['ratio']:g}; mend the line")
    where_run = (plain(line.get("machine")), plain(line.get("software") or line.get("versions")))
    made_from = {**{f"source {k}": v for k, v in source.items()}, **settings}
    return Run(
        data,
        str(line.get("model") or settings.get("model") or "model not named"),
        method,
        budget,
        seed,
        json.dumps({k: v for k, v in made_from.items() if k != "model"}, sort_keys=True),
        json.dumps(config, sort_keys=True),
        None if reason is None else str(reason),
        measures,
        "; ".join(part for part in where_run if part),
        plain(line.get("commit")),
        plain(line.get("date")),
        where,
    )


def _kind(result: Any) -> str | None:
    """Which benchmark wrote a JSON file, by what lies in it."""
    if not isinstance(result, dict):
        return None
    for kind, key, inner in (
        ("retrieval", "rows", "queries_per_s"),
        ("words", "rows", "scores"),
        ("vectors", "tables", "budgets"),
        ("search", "searched", "rows"),
    ):
        rows = result.get(key)
        if isinstance(rows, list) and rows and all(isinstance(r, dict) and inner in r for r in rows):
            return kind
    return None


def _lines(path: Path, text: str, notes: list[str]) -> Iterable[Run]:
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        where = f"{path.name}, line {number}"
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                notes.append(f"{where} is cut off and left out: the benchmark was writing it, or was ended.")
                return
            raise InputError(f"{where}: expected one JSON object, found text that is none ({error.msg})") from None
        yield run(parsed, where)


def read(paths: Iterable[Path]) -> Material:
    """All files, in order. Of two lines of one run the later counts; a JSON file of no known kind is left out."""
    found = Material()
    runs: dict[tuple[Any, ...], Run] = {}
    total = 0
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: expected UTF-8 text, found other bytes") from None
        found.files.append(path.name)
        if path.suffix == ".json":
            try:
                result = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"{path.name}, line {error.lineno}: expected JSON, found text that is none") from None
            kind = _kind(result)
            if kind is None:
                found.notes.append(f"{path.name} has no section on this page and is left out.")
            else:
                if kind in found.offline:
                    found.notes.append(
                        f"{found.names[kind]} is left out: {path.name} is of the same benchmark and later."
                    )
                found.offline[kind], found.names[kind] = result, path.name
            continue
        for one in _lines(path, text, found.notes):
            total += 1
            runs[one.data, one.model, one.settings, one.method, one.config, one.budget, one.seed] = one
    found.runs = list(runs.values())
    if total > len(runs):
        found.notes.append(f"{total - len(runs)} lines repeat a run; the last line of a run counts.")
    if not found.runs and not found.offline:
        names = ", ".join(found.files) or "no files"
        raise InputError(f"{names}: expected at least one run, found none; run `python -m bench ctr` first")
    return found


def timed_by(material: Material, paths: Iterable[Path]) -> Material:
    """`material` with the times of runs in other files: of the same data, model, method, budget and seed.

    All its own times go. Those of whole trainings come from runs of the same settings alone: a run whose steps and
    lookups are timed may end after an epoch.
    """
    others = read(paths)
    same = {(r.data, r.model, r.method, r.config, r.budget, r.seed): r for r in others.runs if r.reason is None}

    def with_times(one: Run) -> Run:
        kept = {k: v for k, v in one.measures.items() if k not in TIMES + DURATIONS}
        other = same.get((one.data, one.model, one.method, one.config, one.budget, one.seed))
        if other is None or one.reason is not None:
            return replace(one, measures=kept)
        taken = TIMES + (DURATIONS if other.settings == one.settings else ())
        return replace(one, measures=kept | {k: v for k, v in other.measures.items() if k in taken})

    runs = [with_times(one) for one in material.runs]
    files, notes = [*material.files, *others.files], [*material.notes, *others.notes]
    return replace(material, runs=runs, files=files, notes=notes, timed=others.runs)
