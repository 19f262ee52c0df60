"""Rows in training and encoding on a device, timed by `bench/gpu_check.py`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

from bench.gpu_timings import DIM, Clock, of_torch, row_sizes

# Trainable methods whose rows and gradients have kernels.
TRAINED: list[tuple[str, dict[str, Any]]] = [
    ("compo", {"budget": 0.1}),
    ("compo", {"budget": 0.1, "op": "add"}),
    ("robe", {"budget": 0.1}),
    ("adapt", {"budget": 0.1}),
    ("tt", {"budget": 0.1}),
    ("int8", {}),
    ("alpt", {}),
]
DIMS, BATCHES = (16, 64, 128), (1 << 12, 1 << 14, 1 << 17)
ENCODED: list[tuple[str, dict[str, Any]]] = [
    ("float16", {}),
    ("bfloat16", {}),
    ("int16", {}),
    ("int8", {}),
    ("int4", {"block_size": 64}),
    ("int2", {"block_size": 64}),
    ("nf4", {}),
    ("dynamic8", {}),
]


def trainings(quick: bool, clock: Clock | None = None, device: str = "cuda") -> Iterator[dict[str, Any]]:
    """Rows in training: forward, forward and backward, and a step of SGD, by their kernels and by torch's own chain.

    Calls are eager and include what they cost the host. Nothing without PyTorch for CUDA.
    """
    try:
        import torch
    except ImportError:
        return
    if device == "cuda" and not torch.cuda.is_available():
        return
    import numpy as np

    import embstore.nn

    timer = clock or of_torch(torch)
    rows, repeats = (1 << 16, 5) if quick else (1 << 20, 30)
    counts = np.random.default_rng(0).zipf(1.5, rows).astype(np.float64)
    for (name, config), dim, batch in itertools.product(TRAINED, DIMS, BATCHES):
        module = embstore.nn.embedding(name, rows, dim, counts=counts, **config).to(device)
        optimizer = torch.optim.SGD(module.parameters(), 1e-3)
        sets = [torch.randint(0, rows, (batch,), device=device) for _ in range(3)]

        def forward(ids: Any, module: Any = module) -> None:
            with torch.no_grad():
                module.rows(ids)

        def backward(ids: Any, module: Any = module, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            module.rows(ids).square().mean().backward()

        def step(ids: Any, module: Any = module, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            module(ids).square().mean().backward()
            optimizer.step()
            module.after_step(0)

        found: dict[str, Any] = {"method": name, "config": config, "rows": rows, "dim": dim, "ids": batch}
        for label, call in (("forward", forward), ("backward", backward), ("step", step)):
            calls = [functools.partial(call, ids) for ids in sets]
            for way, choice in (("chain", False), ("fused", None)):
                with embstore.nn.use_fused(choice):
                    found[f"{label}_{way}"] = timer.seconds(calls, repeats)
        yield found


def encodings(quick: bool, bandwidth: float, clock: Clock) -> Iterator[dict[str, Any]]:
    """Rows of the device to tables there, with all that a call does: memory taken and given back, faults asked for."""
    from embstore.cuda import encode

    rows = 1 << (14 if quick else 22)
    given = clock.rows((rows, DIM), 1)
    for name, config in ENCODED:

        def call(name: str = name, config: dict[str, Any] = config) -> None:
            encode(given, name, **config).close()

        seconds = clock.seconds([call], 5 if quick else 15)
        moved = rows * (4 * DIM + sum(row_sizes(name, config)))
        yield {
            "method": name, "config": config, "rows": rows, "seconds": seconds, "bytes": moved,
            "rows_per_second": rows / seconds, "of_copy": moved / seconds / bandwidth,
        }  # fmt: skip


def sanitized(clock: Clock) -> None:
    """Every kernel once, on little."""
    import numpy as np

    from embstore.cuda import encode

    given = clock.rows((100, 50), 1)
    for name, config in ENCODED:
        encode(given, name, **config).close()
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    import embstore.nn

    for (name, config), dim in itertools.product(TRAINED, (9, 16)):
        module = embstore.nn.embedding(name, 1000, dim, counts=np.ones(1000), **config).to("cuda")
        module(torch.randint(0, 1000, (300,), device="cuda")).sum().backward()
    torch.cuda.synchronize()


def lines(result: dict[str, Any]) -> list[str]:
    """What `gpu_check` prints of these."""
    lines = []
    for row in result.get("trainings", []):
        label = row["method"] + "".join(f" {k}={v}" for k, v in row["config"].items())
        parts = (
            f"{what} {row[f'{what}_fused'] * 1e3:.3f} ms ({row[f'{what}_chain'] / row[f'{what}_fused']:.2f} x)"
            for what in ("forward", "backward", "step")
        )
        lines.append(
            f"training, {label}, dim {row['dim']}, {row['ids']:,} ids, beside torch's chain: {', '.join(parts)}"
        )
    for row in result.get("encodings", []):
        label = row["method"] + "".join(f" {k}={v}" for k, v in row["config"].items())
        speed = row["rows_per_second"] / 1e6
        lines.append(f"encoding, {label}: {speed:.0f} M rows of {DIM} a second, {row['of_copy']:.0%} of copy")
    return lines
