"""One run of `python -m bench ctr` in a process of its own: plan as JSON on stdin, what was measured on stdout.

A process a run keeps the measured memory that of the run, and a run that is killed for its memory from ending a sweep.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import embstore
import embstore.nn as enn
from embstore import errors

from . import ctr_models, ctr_sources, metrics, timing
from .ctr import form
from .ctr_data import Clicks
from .train import Loop, Outcome

BATCHES = (1, 128, 10_000)
SERVED = 0.2  # seconds of lookups a batch size, at least
EVERY = 0.02  # seconds between looks at the resident memory


def fit(
    data: Clicks | ctr_sources.Mapped,
    method: str,
    budget: float | None,
    seed: int,
    settings: dict[str, Any],
    **config: Any,
) -> tuple[Any, Outcome, int]:
    """One training: the module, where it ended, and the bytes of its training at the start.

    Raises `BudgetError` where the method cannot reach the budget.
    """
    sizes, dim = data.field_sizes, settings.get("dim", 16)
    module = enn.embedding(
        method, embedding_dim=dim, field_sizes=sizes, budget=budget, counts=data.counts, seed=seed, **config
    )
    torch.manual_seed(seed)
    model = ctr_models.MODELS[settings["model"]](len(sizes), dim, tuple(settings.get("hidden", (128, 64))))

    device = settings.get("device", "cpu")
    module, model = module.to(device), model.to(device)

    def optimizer(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        dense = {id(p) for p in model.parameters()}
        wanted = [p for p in parameters if p.requires_grad]
        rates = (settings["lr"], settings.get("embedding_lr") or settings["lr"])
        if rates[0] == rates[1]:
            return torch.optim.Adam(wanted, rates[0])
        groups = [[p for p in wanted if (id(p) in dense) == own] for own in (True, False)]
        return torch.optim.Adam([{"params": g, "lr": lr} for g, lr in zip(groups, rates, strict=True) if g])

    loop = Loop(
        module, model, data, optimizer, batch=settings["batch"], epochs=settings["epochs"],
        stage_epochs=settings.get("stage_epochs"),
        patience=settings.get("patience", 1), evaluations=settings.get("evaluations", 1), seed=seed, device=device,
    )  # fmt: skip
    training = module.nbytes_training("adam")  # before the stages, which may leave weights out
    return module, loop.run(), training


def _warm_up() -> None:
    """A step of a small model: what torch imports and allocates the first time is not a method's memory."""
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()


class Peak:
    """The largest resident memory of this process, files that are mapped left out, from when it was made."""

    def __init__(self, parent: int) -> None:
        self._parent, self._start, self._largest = parent, _resident(), 0
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            self._largest = max(self._largest, _resident())
            if os.getppid() != self._parent:  # the sweep was killed: its runs end with it
                os._exit(1)

    def megabytes(self) -> float:
        """Stop looking; how far the largest was above the start, in units of 2**20 bytes."""
        self._over.set()
        return (max(self._largest, _resident()) - self._start) / 2**20


def _resident() -> int:
    """Bytes of private memory; where Linux's status file is not there, the peak of everything so far."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Train, export and serve as `plan` says; `reason` in place of measures where the budget is out of reach."""
    settings = plan["settings"]
    torch.set_num_threads(settings["threads"])
    embstore.set_num_threads(1)
    given = Namespace(**plan["given"])
    data = ctr_sources.load(ctr_sources.source(given), Path(given.cache), given.data_seed)
    _warm_up()
    peak = Peak(plan["parent"])
    try:
        method, config = form(plan["method"])
        module, outcome, training = fit(data, method, plan["budget"], plan["seed"], settings, **config)
    except errors.BudgetError as refused:
        return {"reason": str(refused), **_about()}
    found = dataclasses.asdict(outcome)
    found["test_log_loss"] = found.pop("test_loss")
    found["valid_log_loss"] = found.pop("valid_loss")
    found["peak_mb"] = peak.megabytes()
    labels = np.asarray(data.labels[data.valid.start : data.valid.stop])
    found["popularity"] = metrics.auc(labels, data.popularity(data.valid))
    with tempfile.TemporaryDirectory(prefix="embstore-bench-") as work:
        start = time.perf_counter()
        tables = module.eval().cpu().export(Path(work) / "fields")
        found["export_seconds"] = time.perf_counter() - start
        found["serve"] = serve(tables, data)
        found["nbytes"] = tables.nbytes
        stored = [table.method for table in tables.values()]
    found["nbytes_training"] = training
    found["ratio"] = found["nbytes"] / (4 * settings["dim"] * sum(data.field_sizes))
    found["config"] = [{"method": method.id, **dataclasses.asdict(method)} for method in stored]
    return {**found, **_about()}


def serve(tables: embstore.TableSet, data: ctr_sources.Mapped) -> dict[str, float]:
    """Microseconds a batch of test samples by its size, and rows/s of the largest; into an array that is there."""
    rows = data.fields[data.test.start : data.test.stop][: 4 * BATCHES[-1]].astype(np.int64)
    found = {}
    for size in BATCHES:
        batches = [np.resize(rows[i % len(rows) :], (size, rows.shape[1])) for i in range(0, 8 * size, size)]
        out = np.empty((size, sum(t.embedding_dim for t in tables.values())), np.float32)
        times: list[float] = []
        while len(times) < 20 or sum(times) < SERVED:
            start = time.perf_counter()
            tables.lookup(batches[len(times) % len(batches)], out)
            times.append(time.perf_counter() - start)
        found[str(size)] = 1e6 * timing.median(times[5:])
    found["rows_per_second"] = 1e6 * BATCHES[-1] * len(tables) / found[str(BATCHES[-1])]
    return found


def _about() -> dict[str, Any]:
    """Software and machine, as of the run."""
    made = timing.environment()
    versions = {"embstore": embstore.__version__, "python": platform.python_version(), **made["versions"]}
    machine = {"cpu": made["cpu"], "cores": made["cores"], "system": platform.platform()}
    return {"versions": versions, "machine": machine, "commit": made["commit"], "date": made["date"]}


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities are null, numpy's numbers Python's."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    print(json.dumps(plain(run(json.load(sys.stdin)))))
