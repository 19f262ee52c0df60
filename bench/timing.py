"""Timing in turns: every contender once per round, so that a drift of the machine meets all of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def rounds(contenders: dict[str, Callable[[], Any]], count: int = 7) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(count + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if i:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> float:
    """How many times faster `name` is than `to`: the median over rounds of paired ratios."""
    return statistics.median(b / a for a, b in zip(times[name], times[to], strict=True))


def median(values: list[float]) -> float:
    return statistics.median(values)


def environment() -> dict[str, Any]:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    cpu = next((v.split(":")[1].strip() for v in lines if v.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    versions = {}
    for package in ("numpy", "torch", "fbgemm_gpu", "faiss", "usearch"):
        try:
            versions[package] = __import__(package).__version__
        except ImportError:
            versions[package] = None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


def save(name: str, result: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **result}, indent=1) + "\n")
    return path
