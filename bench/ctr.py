"""Click models over compressed embeddings: methods x budgets x seeds on one data set, a JSON line a run.

    python -m bench ctr --quick                                # MovieLens-1M, two budgets, minutes
    python -m bench ctr --data criteo --path dac/ --jobs 4     # the whole sweep
    python -m bench ctr --methods memcom memcom:table_dtype=int8   # a method beside one of its forms

A run that is in the results is not done again, so a sweep that was ended goes on where it was. docs/benchmarks.md says
what each option and each field of a line is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from embstore.errors import ConfigError, EmbstoreError, MissingDependencyError, SourceError

from . import ctr_sources, timing
from .ctr_summary import FULL, summary
from .ctr_tune import best, candidates

# The methods of Zhang et al., VLDB 2024, "Experimental analysis of large-scale learnable vector storage compression".
SURVEY = (
    "compo", "tt", "dhe", "robe", "dedup", "mgqe", "adapt", "int8", "int16", "alpt", "mde", "autodim", "optembed",
    "deeplight", "autosrh",
)  # fmt: skip
MODELS = ("dlrm", "wdl", "dcn", "deepfm")
BUDGETS = (0.5, 0.25, 0.1, 0.05, 0.01, 0.005, 0.001)
QUICK = (0.5, 0.1)
# What the data sets that are here need; the rest of the settings, and other data, have the defaults of the options.
# On MovieLens the full table is past its best long before methods whose rows are shared are.
SETTINGS: dict[str, dict[str, Any]] = {
    "ml-1m": {"batch": 16384, "lr": 0.01, "epochs": 12},
    "frappe": {"batch": 4096, "lr": 0.005, "epochs": 8},
}
# One epoch: `dhe` alone takes minutes for each.
QUICK_SETTINGS = {"batch": 4096, "lr": 0.01, "epochs": 1}
# glibc keeps blocks of up to 128 MiB that a step frees for the next: giving them back and clearing them again was two
# thirds of a step of `dhe`. Larger ones, which evaluations need, go back, so that the peak is not of both.
KEEP_FREED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 27), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
FILE = timing.RESULTS / "ctr.jsonl"
# What of the options decides the data.
GIVEN = (
    "data", "path", "name", "label", "split", "rows", "fields", "features", "skew", "data_seed", "cache",
)  # fmt: skip
# Of a line; lines without one are of the first.
VERSION = 1
KEY = ("data", "source", "model", "method", "budget", "seed", "settings")

Run = dict[str, Any]


def key(run: Run) -> str:
    """What makes two runs the same."""
    return json.dumps([run.get(k) for k in KEY], sort_keys=True)


def stored(file: Path) -> list[Run]:
    """The runs of a file. A last line that a killed sweep left unfinished is cut off."""
    if not file.exists():
        return []
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(file, len(whole))
    return [_parsed(line, f"{file}, line {number}") for number, line in enumerate(whole.splitlines(), 1)]


def _parsed(line: bytes, where: str) -> Run:
    """One line; SourceError where it is none, or one of another version."""
    try:
        run = json.loads(line)
    except ValueError:
        run = None
    if not isinstance(run, dict):
        raise SourceError(f"{where} must be a JSON object, found {line[:40].decode(errors='replace')!r}; mend it")
    if run.get("version", VERSION) != VERSION:
        raise SourceError(f"{where} must be of version {VERSION}, found {run['version']!r}; name another --out")
    return run


def wanted(given: argparse.Namespace, data: dict[str, Any], settings: Run, tuned: dict[str, Run]) -> Iterator[Run]:
    """Runs in the order of their use: for each seed the full table first, then all methods at the largest budget."""
    for seed in given.seeds:
        for model in given.models:
            cells = [] if given.no_full else [(FULL, None)]
            cells += [(m, b) for b in given.budgets for m in given.methods if m != FULL]
            for method, budget in cells:
                own = {**settings, "model": model}
                own.update(tuned.get(cell(model, method, budget), {}))
                yield {**data, "model": model, "method": method, "budget": budget, "seed": seed, "settings": own}


def form(text: str) -> tuple[str, dict[str, Any]]:
    """Method and config of `METHOD` or `METHOD:FIELD=VALUE,...`; a value is JSON, or else text.

    Raises ValueError where it is neither.
    """
    method, colon, fields = text.partition(":")
    config: dict[str, Any] = {}
    for field in fields.split(",") if colon else []:
        name, equals, value = field.partition("=")
        if not (name and equals and value) or name in config:
            raise ValueError(f"a form is METHOD:FIELD=VALUE,..., each field once, found {text!r}")
        try:
            config[name] = json.loads(value)
        except ValueError:
            config[name] = value
    return method, config


def cell(model: str, method: str, budget: float | None) -> str:
    return f"{model} {method} {budget}"


def do(runs: list[Run], given: argparse.Namespace, file: Path) -> int:
    """Do the runs that `file` has not, `--jobs` side by side, and append each; the number of those that failed."""
    done = {key(run) for run in stored(file)}
    left = [run for run in {key(run): run for run in runs}.values() if key(run) not in done]
    print(f"{len(runs) - len(left)} of {len(runs)} runs are in {file}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        futures = {pool.submit(_process, run, given): run for run in left}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                run, found = futures[future], future.result()
                label = f"[{number}/{len(left)}] {run['data']} {run['model']} {run['method']} {run['budget']}"
                label += f" seed {run['seed']}"
                if "error" in found:
                    failed += 1
                    print(f"{label} FAILED: {found['error']}", file=sys.stderr, flush=True)
                    continue
                with file.open("a") as lines:  # one write, so that sweeps may share the file
                    lines.write(json.dumps({"version": VERSION, **run, **found}) + "\n")
                print(label, found.get("reason") or f"valid AUC {found['valid_auc']:.4f}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            raise
    return failed


def _process(run: Run, given: argparse.Namespace) -> Run:
    """One run in its process: what it measured, or `error`."""
    plan = {**run, "given": {name: getattr(given, name) for name in GIVEN}, "parent": os.getpid()}
    threads = str(given.threads)
    done = subprocess.run(
        [sys.executable, "-m", "bench.ctr_run"], input=json.dumps(plan), capture_output=True, text=True, check=False,
        env={**KEEP_FREED, **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )  # fmt: skip
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: list[str]) -> int:
    given = _options(arguments)
    try:
        source = ctr_sources.source(given)
        data = ctr_sources.load(source, Path(given.cache), given.data_seed)
        _need_torch(given.device)
        stored(Path(given.out))
    except EmbstoreError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    known = {k: v for k, v in data.about.items() if k not in ("fields", "version")}
    for file in known.get("files", []):
        file.pop("modified")  # the same file elsewhere is the same data
    about = {"data": source.name, "source": {"kind": given.data, **known, "rows": len(data.labels)}}
    print(
        f"{source.name}: {len(data.labels):,} rows, {len(data.field_sizes)} fields, {sum(data.field_sizes):,} features"
    )
    base = {"batch": 4096, "lr": 0.002, "epochs": 10, **SETTINGS.get(given.data, {})}
    base = QUICK_SETTINGS if given.quick else base
    settings = {
        "batch": given.batch or base["batch"], "lr": given.lr or base["lr"], "embedding_lr": given.embedding_lr,
        "epochs": given.epochs or base["epochs"], "patience": given.patience, "evaluations": given.evaluations,
        "dim": given.dim, "hidden": given.hidden, "optimizer": "adam", "threads": given.threads,
        **({} if given.device == "cpu" else {"device": given.device}),
        **({} if given.stage_epochs is None else {"stage_epochs": given.stage_epochs}),
    }  # fmt: skip
    out, tuned, failed = Path(given.out), {}, 0
    if given.tune:
        trials = out.with_suffix(".tune.jsonl")
        one = argparse.Namespace(**{**vars(given), "seeds": given.seeds[:1]})
        runs = [
            {**run, "settings": {**run["settings"], **draw}}
            for run in wanted(one, about, settings, {})
            for draw in candidates(settings, given.tune)
        ]
        failed += do(runs, given, trials)
        keys = {key(run) for run in runs}
        own = [run for run in stored(trials) if key(run) in keys]
        tuned = {name: best(runs) for name, runs in _by_cell(own).items()}
    runs = list(wanted(given, about, settings, tuned))
    failed += do(runs, given, out)
    done = {key(run): run for run in stored(out)}
    print(summary([done[key(run)] for run in runs if key(run) in done]))
    return 1 if failed else 0


def _by_cell(runs: list[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        if "reason" not in run:
            found.setdefault(cell(run["model"], run["method"], run["budget"]), []).append(run)
    return found


def _need_torch(device: str) -> None:
    try:
        import torch
    except ImportError as missing:
        raise MissingDependencyError("the benchmark needs torch, found none; pip install embstore[bench]") from missing
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda needs a GPU that torch can use, found none; leave it out to train on the CPU")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench ctr", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", choices=ctr_sources.NAMES, default="ml-1m")
    data.add_argument("--path", nargs="+", help="file, files of train (validation) test, or folder")
    data.add_argument("--name", help="of the data in results and cache; by default that of the set or file")
    data.add_argument("--cache", default="ctr-cache", help="folder of the mapped ids")
    data.add_argument("--rows", type=_positive, help="of generated data; of others, how many to take of each file")
    data.add_argument("--split", choices=("own", "random"), default="own", help="random: 8:1:1 by --data-seed")
    data.add_argument("--label", default="label", help="the label column of Parquet")
    data.add_argument("--fields", type=_positive, default=26, help="of generated data")
    data.add_argument("--features", type=_positive, default=10_000_000, help="of generated data, all fields together")
    data.add_argument("--skew", type=float, default=1.05, help="exponent of the power law of generated ids")
    data.add_argument("--data-seed", type=int, default=0, help="of negatives, random splits and generated data")
    runs = parser.add_argument_group("runs")
    runs.add_argument("--models", nargs="+", choices=MODELS, default=["dlrm"])
    runs.add_argument(
        "--methods", nargs="+", default=list(SURVEY), help="ids, or all; ID:FIELD=VALUE,... with its config"
    )
    runs.add_argument("--no-full", action="store_true", help="leave out the full table")
    runs.add_argument("--budgets", nargs="+", type=_ratio, default=None, help="ratios of the float32 bytes")
    runs.add_argument("--seeds", nargs="+", type=int, default=None)
    runs.add_argument("--out", default=str(FILE), help="JSON lines, appended to")
    runs.add_argument("--jobs", type=_positive, help="runs side by side; 1, or 2 with --quick")
    runs.add_argument("--threads", type=_positive, default=1, help="of torch in each run")
    runs.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to train; tables are served by the CPU"
    )
    runs.add_argument("--quick", action="store_true", help="two budgets, one seed, one epoch, two jobs")
    runs.add_argument("--tune", type=_positive, default=0, metavar="N", help="learning rates tried for each method")
    training = parser.add_argument_group("training")
    training.add_argument("--batch", type=_positive)
    training.add_argument("--lr", type=float)
    training.add_argument("--embedding-lr", type=float, help="of the method's weights; by default --lr")
    training.add_argument("--epochs", type=_positive, help="most epochs a stage")
    training.add_argument(
        "--stage-epochs", type=_positive, help="of searches, warm-ups and pruning, which validation does not end"
    )
    training.add_argument("--patience", type=int, default=1, help="evaluations without a better AUC before a stop")
    training.add_argument("--evaluations", type=_positive, default=1, help="an epoch")
    training.add_argument("--dim", type=_positive, default=16)
    training.add_argument("--hidden", type=_positive, nargs="+", default=[128, 64], help="layers of the model")
    given = parser.parse_args(arguments)
    given.budgets = given.budgets or list(QUICK if given.quick else BUDGETS)
    given.seeds = given.seeds if given.seeds is not None else ([0] if given.quick else [0, 1, 2])
    given.jobs = given.jobs or (2 if given.quick else 1)
    given.path = [str(Path(p).absolute()) for p in given.path] if given.path else None
    known = _methods()
    given.methods = list(known) if given.methods == ["all"] else given.methods
    try:
        unknown = [m for m in given.methods if form(m)[0] not in known]
    except ValueError as fault:
        parser.error(str(fault))
    if unknown:
        parser.error(f"methods must be of {', '.join(known)}, found {unknown[0]!r}")
    return given


def _methods() -> tuple[str, ...]:
    try:
        import embstore.nn
    except ImportError:
        return (FULL, *SURVEY)
    return embstore.nn.names()


def _positive(text: str) -> int:
    value = int(float(text))
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, found {text}")
    return value


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, found {text}")
    return value
