"""`python -m bench.gpu_check [--quick] [--steps …] [--out DIR]`: all there is to check and time on a GPU's machine.

Builds the extensions in place, runs the tests marked `gpu` on fresh random inputs, runs compute-sanitizer over a small
set where it is installed, measures the device's own copy bandwidth, times every kernel beside the bytes it must move,
int8 bags beside `torch.nn.functional.embedding_bag`, tables kept in part on the device or shared out to several, rows
in training with their gradients beside torch's own chain of operations, and encoding. Writes gpu_check.json and
gpu_check.txt after each of these; prints the table. What an earlier call with the same --out found of the same
sources and device is kept unless it is done again, so that the steps may be spread over calls, or go on after one that
was ended.
Exit status: 0 when all was well, 1 when a check failed, 2 without a GPU. Needs nvcc and numpy; CuPy or PyTorch
for timing; no more of embstore's own dependencies than opening a table does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = ("build", "tests", "sanitizer", "timings")


def run(command: list[str], log: Path, timeout: float) -> dict[str, Any]:
    """A command from the root, its output in a file: how it ended and what it said last."""
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as out:
        try:
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=timeout
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
        except FileNotFoundError:
            status = 127
            out.write(f"{command[0]} is not installed here")
    tail = log.read_text(errors="replace").splitlines()[-15:]
    seconds = round(time.monotonic() - start, 1)
    print(f"[{seconds:7.1f} s] exit {status}: {' '.join(command)}", *tail[-3:], sep="\n    ", flush=True)
    return {"command": " ".join(command), "status": status, "seconds": seconds, "tail": tail}


def sanitized() -> None:
    """The small set that compute-sanitizer watches: every method and every way to call it, once."""
    import numpy as np
    from pair import Pair

    from bench import gpu_training
    from bench.gpu_timings import DIM, Clock, big_table, row_sizes
    from embstore import registry
    from embstore.cuda import driver

    for name in driver.extension().methods():
        for rows, dim in ((37, 20), (64, 129)):
            pair = Pair(driver.Driver(), registry.get(name)(), rows, dim)
            pair.check()
            pair.lookup([rows, -1, 3])
            assert pair.fault == [1, 0, rows]
            pair.close()
    ids = np.random.default_rng(3).integers(0, 9000, 500)
    for name in ("float16", "int8", "int4", "pq", "nf4", "rabitq", "binary"):
        table = big_table(name, {}, 9000)
        row_bytes = sum(row_sizes(name, {}))
        for places in ("cuda", ["cuda:0", "cuda:0"]):
            with table.to(places) as gpu:
                gpu.lookup(ids)
                gpu.bag(ids.reshape(50, 10))
                for metric in ("ip", "cosine", "l2"):
                    gpu.search(np.ones((3, DIM), np.float32), 5, metric)
                    gpu.search(np.ones((3, DIM), np.float32), 5, metric, exact=True)
        with table.to("cuda", cache_bytes=9000 * row_bytes // 2 + 9000 * 5) as gpu:
            gpu.lookup(ids)
            gpu.refill()
            gpu.bag(ids.reshape(50, 10))
            gpu.search(np.ones((3, DIM), np.float32), 5)
    gpu_training.sanitized(Clock())
    print("sanitized set: done")


def table_of_results(result: dict[str, Any]) -> list[str]:
    """What is printed last and written to gpu_check.txt."""
    from bench import gpu_training
    from bench.gpu_timings import AIMED, GOAL

    lines = [f"{result['device']['name']}, {result['date']}"]
    for name, step in result["steps"].items():
        lines.append(f"{name}: {'well' if step['status'] == 0 else 'FAILED, see the JSON'} ({step['seconds']} s)")
    if "copy_bytes_per_second" in result:
        lines.append(f"copies {result['copy_bytes_per_second'] / 1e9:.0f} GB/s")
    if "timings" in result:
        columns = f"{'method':<28}{'call':<18}{'Mids/s':>9}{'GB/s':>8}{'of copy':>9}{'by sectors':>12}"
        lines.append(f"{columns}   goal {GOAL:.0%} of copy")
    for row in result.get("timings", []):
        label = row["method"] + "".join(f" {k}={v}" for k, v in row["config"].items())
        aimed = row["method"] in AIMED and not row["config"] and (row["what"] == "bag" or row["out"] == "float32")
        verdict = ("reached" if row["of_copy"] >= GOAL else "missed") if aimed else ""
        lines.append(
            f"{label:<28}{row['what'] + ' ' + row['out']:<18}{row['ids_per_second'] / 1e6:>9.0f}"
            f"{row['bytes_per_second'] / 1e9:>8.0f}{row['of_copy']:>9.0%}{row['of_copy_in_sectors']:>12.0%}   {verdict}"
        )
    for row in result.get("searches", []):
        lines.append(
            f"search, {row['method']}: {row['queries']} queries over {row['rows']:,} rows, k {row['k']}: "
            f"{row['seconds'] * 1e3:.2f} ms"
        )
    for row in result.get("caches", []):
        hits = "none" if row["hit_rate"] is None else f"{row['hit_rate']:.0%}"
        lines.append(
            f"cache, {row['method']}: {row['share']:.0%} of {row['rows']:,} rows on the device, {hits} of ids hit: "
            f"{row['ids_per_second'] / 1e6:.0f} Mids/s"
        )
    for row in result.get("split", []):
        lines.append(
            f"split, int8 on devices {row['devices']}: {row['ids'] / row['lookup_seconds'] / 1e6:.0f} Mids/s looked "
            f"up, 100 queries over {row['rows']:,} rows {row['search_seconds'] * 1e3:.2f} ms"
        )
    lines += gpu_training.lines(result)
    torch = result.get("beside_torch")
    if torch is not None:
        lines.append(
            f"int8 bags: {torch['times_float32']:.2f} x torch's float32 (goal 2.5), {torch['times_float16']:.2f} x its "
            f"float16 (goal 1.3)"
        )
    return lines


def timed(quick: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The timings by name, in the order in which they are taken; the first is what others are compared to."""
    from bench import gpu_timings as kernels
    from bench import gpu_training

    clock = kernels.Clock()
    bandwidth = clock.copy_bandwidth((256 << 20) if quick else (4 << 30))
    yield "copy_bytes_per_second", lambda: bandwidth
    yield "timings", lambda: list(kernels.timings(quick, bandwidth, clock))
    yield "beside_torch", lambda: kernels.beside_torch(quick, clock)
    yield "searches", lambda: list(kernels.searches(quick, clock))
    yield "caches", lambda: list(kernels.caches(quick, clock))
    yield "split", lambda: list(kernels.split_tables(quick, clock))
    yield "trainings", lambda: list(gpu_training.trainings(quick))
    yield "encodings", lambda: list(gpu_training.encodings(quick, bandwidth, clock))


def write(result: dict[str, Any], folder: Path) -> list[str]:
    """Both files as far as things are, and the lines of the table."""
    lines = table_of_results(result)
    for name, text in (("gpu_check.json", json.dumps(result, indent=1)), ("gpu_check.txt", "\n".join(lines))):
        partial = folder / f".{name}-partial"
        partial.write_text(text + "\n")
        partial.replace(folder / name)
    return lines


def earlier(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call left in the folder, if it was about the same: sizes of tables, device and sources."""
    file = folder / "gpu_check.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    wanted = json.loads(json.dumps(about))  # tuples are lists there
    return found if all(found.get(name) == value for name, value in wanted.items()) else {}


def sources() -> str:
    """A digest of what is checked: results of other sources are none of this."""
    digest = hashlib.sha256()
    for folder in ("csrc", "embstore", "bench"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".h", ".cpp", ".cu", ".cuh"):
                digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def check(given: argparse.Namespace, result: dict[str, Any]) -> None:
    """The tests, and the small set under the sanitizer."""
    steps = result["steps"]
    if "tests" in given.steps:
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/cuda"]
        steps["tests"] = run(tests, given.out / "tests.log", 560)
        write(result, given.out)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if "sanitizer" in given.steps:
        watched = [sys.executable, "-m", "bench.gpu_check", "--sanitized"]
        for tool in ("memcheck", "racecheck"):
            command = [sanitizer or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *watched]
            steps[tool] = run(command, given.out / f"{tool}.log", 300)
            write(result, given.out)


def take_times(given: argparse.Namespace, result: dict[str, Any]) -> None:
    """Every timing; one that fails is a failed step, and the others are taken."""
    for name, take in timed(given.quick):
        start = time.monotonic()
        result["steps"].pop(name, None)
        result.pop(name, None)
        try:
            result[name] = take()
        except Exception:
            tail = traceback.format_exc().splitlines()[-15:]
            seconds = round(time.monotonic() - start, 1)
            result["steps"][name] = {"command": name, "status": 1, "seconds": seconds, "tail": tail}
        write(result, given.out)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small tables: to see that it runs, not to quote")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="some of the steps; all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_check", help="where results and logs go")
    parser.add_argument("--sanitized", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT / "tests"), str(ROOT / "tests" / "nn"), str(ROOT)]
    if given.sanitized:
        sanitized()
        return 0
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidiactl").exists():
        print("gpu_check needs a machine with a CUDA device, found none; run it on one", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    built = {}
    if "build" in given.steps:
        os.environ["EMBSTORE_CUDA"] = "on"
        built["build"] = run([sys.executable, "setup.py", "build_ext", "--inplace"], given.out / "build.log", 580)
        if built["build"]["status"]:
            print(*built["build"]["tail"], sep="\n")
            return 1
    from pair import why_no_device

    from embstore.cuda.driver import Driver

    why = why_no_device()
    if why is not None:
        print(f"gpu_check found no device to check: {why}", file=sys.stderr)
        return 2
    about = {"device": Driver().facts(0), "quick": given.quick, "sources": sources()}
    result = {**earlier(given.out, about), **about, "date": time.strftime("%Y-%m-%d")}
    steps = result.setdefault("steps", {})
    steps |= built
    check(given, result)
    if "timings" in given.steps:
        take_times(given, result)
    print(*write(result, given.out), sep="\n")
    return 1 if any(step["status"] for step in steps.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
