"""Lookups of exported tables beside the eager forward pass of the module that trained them: one thread, the same ids.

A forward pass allocates its result, and the system's work for the new pages counts in its time. So a lookup is timed
both ways: into an array that is there, as a server does it, and into a new one.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import embstore

from . import timing

# Settings other than the defaults that change how a row is found.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "hash": ({"hash": "mix"},),
    "compo": ({"op": "concat"}, {"partitions": 4}),
    "robe": ({"sign": False}, {"wrap": True, "sign": False}),
    "memcom": ({"bias": True},),
    "adapt": ({"map": "hot_ids"},),
    "dhe": ({"hashes": 1024, "layers": 5},),
    "dedup": ({"place_dtype": "uint32"},),
    "deeplight": (
        {"density": 0.03},
        {"values": "int8"},
        {"density": 0.1, "index": "bitmap", "rows_per_start": 16},
        {"density": 0.03, "index": "cells", "rows_per_start": 16},
        {"density": 0.01, "index": "cells", "rows_per_start": 1024},
    ),
    "mde": ({"dims": 4},),
    "tt": ({"cores": 3},),
    "dpq": ({"bits": 4},),
}
LONGEST = 1.0  # seconds of one forward pass: modules that need more for all ids are given fewer


def main(quick: bool = False, directory: str | None = None) -> None:
    rows = measure(*((20_000, 20_000) if quick else (1_000_000, 1_000_000)), directory)
    if not quick:
        print(timing.save("modules", {"rows": rows}))


def measure(n: int, count: int, directory: str | None) -> list[dict[str, Any]]:
    import torch

    import embstore.nn

    torch.set_num_threads(1)
    embstore.set_num_threads(1)
    rng = np.random.default_rng(0)
    ids, counts = rng.integers(0, n, count), 1.0 / (1.0 + rng.permutation(n))
    rows = []
    for dim in (16, 64):
        for name in embstore.nn.names():
            for config in ({}, *VARIANTS.get(name, ())):
                with tempfile.TemporaryDirectory(prefix="embstore-bench-", dir=directory) as work:
                    module = trained(embstore.nn.embedding(name, n, dim, counts=counts, **config))
                    row = compare(module, module.export(Path(work) / "table"), ids)
                row = {"name": name, "config": config, "dim": dim, **row}
                rows.append(row)
                label = " ".join([name, *(f"{k}={v}" for k, v in config.items())])
                print(
                    f"{label:24} {dim:4} {row['ids']:8} ids  table {row['table_mrows_per_s']:8.2f} M/s  "
                    f"module {row['module_mrows_per_s']:8.2f} M/s  {row['over']:6.2f} x, "
                    f"into a new array {row['over_new_array']:6.2f} x",
                    flush=True,
                )
    embstore.set_num_threads(None)
    return rows


def trained(module: Any) -> Any:
    """Past every stage, with the weights it began with: speeds do not depend on them."""
    for stage in module.stages():
        module.before_step(0)
        module.after_step(0)
        module.end_of_stage(stage.name)
    return module.eval()


def compare(module: Any, table: embstore.Table, ids: np.ndarray) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        few = torch.from_numpy(ids[: len(ids) // 100])
        module(few)
        start = time.perf_counter()
        module(few)
        seconds = 100 * (time.perf_counter() - start)
        ids = ids[: max(100, int(len(ids) * min(1.0, LONGEST / seconds)))]
        given, out = torch.from_numpy(ids), np.empty((len(ids), table.embedding_dim), np.float32)
        times = timing.rounds(
            {
                "table": lambda: table.lookup(ids, out=out),
                "table, new array": lambda: table.lookup(ids),
                "module": lambda: module(given),
            }
        )
    return {
        "ids": len(ids),
        "nbytes": table.nbytes,
        "table_mrows_per_s": len(ids) / timing.median(times["table"]) / 1e6,
        "module_mrows_per_s": len(ids) / timing.median(times["module"]) / 1e6,
        "over": timing.ratio(times, "table", "module"),
        "over_new_array": timing.ratio(times, "table, new array", "module"),
    }
