"""`bench/gpu_check.py` as far as it goes without a GPU, with the host in place of the device."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair import why_no_device

from embstore.cuda import driver

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from test_gpu_table import OnDevice

import embstore.cuda.encoder
import embstore.cuda.take
from bench import gpu_check, gpu_timings, gpu_training
from embstore.cuda.array import DeviceArray

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(why_no_device() is None, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    for command in (["-m", "bench.gpu_check"], ["bench/gpu_check.py", "--steps", "tests"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2
        assert done.stderr.strip() == "gpu_check needs a machine with a CUDA device, found none; run it on one"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HostDriver:
    found = HostDriver()
    monkeypatch.setitem(sys.modules, "cupy", None)
    for module in (embstore.cuda.take, embstore.cuda.encoder, driver):
        monkeypatch.setattr(module, "Driver", lambda: found)
    return found


class FakeClock:
    """Calls everything once, and takes a millisecond for it."""

    def __init__(self, host: HostDriver) -> None:
        self.host = host

    def ids(self, n: int, below: int, seed: int) -> Any:
        return np.random.default_rng(seed).integers(0, below, n)

    def skewed(self, n: int, below: int, seed: int) -> Any:
        return (np.random.default_rng(seed).random(n) ** 4 * below).astype(np.int64)

    def normal(self, shape: tuple[int, ...], seed: int) -> Any:
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    def rows(self, shape: tuple[int, ...], seed: int) -> Any:
        return OnDevice(self.host, self.normal(shape, seed))

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return DeviceArray(self.host, 0, shape, dtype, 0)

    def seconds(self, calls: list[Any], repeats: int) -> float:
        calls[0]()
        return 1e-3


def test_every_kernel_is_timed(host: HostDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timings, "LENGTH", 2)
    encoded = gpu_timings.big_table
    monkeypatch.setattr(gpu_timings, "TIMED", [("int8", {}), ("nf4", {}), ("int4", {"block_size": 64})])
    monkeypatch.setattr(gpu_timings, "big_table", lambda name, config, rows: encoded(name, config, 3000))
    rows = list(gpu_timings.timings(True, 1e9, FakeClock(host)))
    assert [(r["method"], r["what"], r["out"]) for r in rows[:3]] == [
        ("int8", "lookup", "float32"), ("int8", "lookup", "float16"), ("int8", "bag", "float32"),
    ]  # fmt: skip
    first = rows[0]
    assert first["bytes"] == first["ids"] * (8 + 132 + 512)
    assert first["bytes_in_sectors"] == first["ids"] * (8 + 160 + 512)
    assert first["of_copy"] == pytest.approx(first["bytes"] / 1e-3 / 1e9)
    assert host.held == {}
    searches = list(gpu_timings.searches(True, FakeClock(host)))
    assert [row["method"] for row in searches] == [
        "float16", "int8, in integers", "int8", "int4, in integers", "int4", "pq", "pq m=16, in integers", "pq m=16",
        "rabitq, in integers", "rabitq", "binary, in integers", "binary",
    ]  # fmt: skip
    caches = list(gpu_timings.caches(True, FakeClock(host)))
    assert [(row["method"], row["share"]) for row in caches[:4]] == [("float32", s) for s in (0.0, 0.1, 0.5, 1.0)]
    rates = [row["hit_rate"] for row in caches[:4]]
    assert rates == sorted(rates) and 0.5 < rates[1] < 0.6 and rates[3] == 1
    monkeypatch.setattr(driver.extension(), "found", lambda: {"devices": 1})
    split = list(gpu_timings.split_tables(True, FakeClock(host)))
    assert [row["devices"] for row in split] == [[0], [0, 0]]
    encodings = list(gpu_training.encodings(True, 1e9, FakeClock(host)))
    assert encodings[3]["bytes"] == (1 << 14) * (512 + 132)
    monkeypatch.setattr(gpu_training, "TRAINED", [("compo", {"budget": 0.1}), ("int8", {})])
    trainings = of_trainings(host, monkeypatch)
    step = {"status": 0, "seconds": 1.0}
    result = {
        "device": {"name": "X"}, "copy_bytes_per_second": 1e9, "date": "2026-01-01", "timings": rows,
        "searches": searches, "caches": caches, "split": split, "trainings": trainings, "encodings": encodings,
        "steps": {"tests": step, "memcheck": step | {"status": 9}},
        "beside_torch": {"times_float32": 3.0, "times_float16": 1.5},
    }  # fmt: skip
    lines = gpu_check.table_of_results(result)
    assert "memcheck: FAILED, see the JSON (1.0 s)" in lines
    assert lines[-1] == "int8 bags: 3.00 x torch's float32 (goal 2.5), 1.50 x its float16 (goal 1.3)"
    assert "search, int8, in integers: 100 queries over 262,144 rows, k 10: 1.00 ms" in lines
    assert "cache, int8: 100% of 3,000 rows on the device, 100% of ids hit: 33 Mids/s" in lines
    assert "split, int8 on devices [0, 0]: 33 Mids/s looked up, 100 queries over 3,000 rows 1.00 ms" in lines
    assert "encoding, int8: 16 M rows of 128 a second, 1055% of copy" in lines
    assert sum("1.00 x" in line and line.startswith("training, ") for line in lines) == len(trainings)
    assert sum("reached" in line for line in lines) == 4


def of_trainings(host: HostDriver, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Those of modules on the host, whose kernels ran; none without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return []
    from embstore.cuda import trained
    from embstore.nn import _ops

    ran: list[str] = []
    run = trained.run
    monkeypatch.setattr(_ops, "KERNELS_ON", ["cpu"])
    monkeypatch.setattr(gpu_training, "DIMS", (9, 16))
    monkeypatch.setattr(gpu_training, "BATCHES", (300,))
    monkeypatch.setattr(trained, "run", lambda kind, *args, **more: (ran.append(kind), run(kind, *args, **more)))
    found = list(gpu_training.trainings(True, FakeClock(host), "cpu"))
    assert [row["method"] for row in found] == ["compo"] * 2 + ["int8"] * 2
    assert ran.count("compo") == 2 * 5  # forward, then forward and backward twice
    return found


def test_the_set_for_the_sanitizer(
    host: HostDriver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_timings, "Clock", lambda: FakeClock(host))
    gpu_check.sanitized()
    assert capsys.readouterr().out == "sanitized set: done\n"


def test_a_sanitizer_that_is_not_there_is_a_failed_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    result: dict[str, Any] = {"quick": True, "device": {"name": "X"}, "date": "2026-01-01", "steps": {}}
    gpu_check.check(argparse.Namespace(steps=["sanitizer"], out=tmp_path), result)
    assert [step["status"] for step in result["steps"].values()] == [127, 127]
    assert result["steps"]["memcheck"]["tail"] == ["compute-sanitizer is not installed here"]


def test_what_was_found_is_kept_where_a_timing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails() -> Any:
        raise RuntimeError("no such kernel")

    times = {"copy_bytes_per_second": lambda: 2e9, "timings": fails, "split": list}
    monkeypatch.setattr(gpu_check, "timed", lambda quick: iter(times.items()))
    given = argparse.Namespace(out=tmp_path, quick=True)
    step = {"status": 0, "seconds": 1.0}
    result = {"quick": True, "device": {"name": "X"}, "date": "2026-01-01", "steps": {"tests": step}}
    gpu_check.take_times(given, result)
    again = gpu_check.earlier(tmp_path, {"quick": True, "device": {"name": "X"}})
    assert again["steps"]["tests"] == step and again["split"] == [] and again["copy_bytes_per_second"] == 2e9
    assert again["steps"]["timings"]["tail"][-1] == "RuntimeError: no such kernel"
    assert "timings: FAILED, see the JSON" in (tmp_path / "gpu_check.txt").read_text()
    for other in ({"quick": False}, {"quick": True, "device": {"name": "Y"}}, {"sources": gpu_check.sources()}):
        assert gpu_check.earlier(tmp_path, other) == {}
    assert gpu_check.earlier(tmp_path / "none", {"quick": True}) == {}
    times["timings"], times["split"] = list, fails
    gpu_check.take_times(given, again)
    last = gpu_check.earlier(tmp_path, {"quick": True})
    assert "timings" not in last["steps"] and "split" in last["steps"] and "split" not in last


def test_sectors() -> None:
    assert [gpu_timings.sectors(n) for n in (32, 128, 4, 2, 64)] == [32, 128, 32, 32, 64]
    assert gpu_timings.sectors(132) == 160
    assert gpu_timings.sectors(31) == (32 * 2 + 64 * 30) / 32
