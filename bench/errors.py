"""What each scalar method costs and loses on word vectors: bytes per row and relative squared error."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

import embstore
from embstore import registry

from . import timing

VARIANTS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in registry.fitted()),
    ("int8", {"range": "minmax"}),
    ("int8", {"symmetric": True}),
    ("int4", {"range": "minmax"}),
    ("int4", {"block_size": 26}),
    ("nf4", {"scale_dtype": "uint8"}),
]


def relative_error(decoded: np.ndarray, original: np.ndarray) -> float:
    exact = original.astype(np.float64)
    return float(np.square(decoded - exact).sum() / np.square(exact).sum())


def main() -> None:
    data = Path(os.environ.get("EMBSTORE_TEST_DATA", "../shared/data")) / "words" / "glove.6B.50d.top100k.npy"
    if not data.exists():
        print(f"skipped: no {data.name}; set EMBSTORE_TEST_DATA to a folder that has words/{data.name}")
        return
    rows = np.load(data)[:20_000]
    found = []
    for name, config in VARIANTS:
        with tempfile.TemporaryDirectory() as work:
            # Words are in the order of frequency: a Zipf law stands for the counts, which GloVe does not give.
            counts = 1 / np.arange(1, len(rows) + 1)
            table = embstore.compress(rows, Path(work) / "t", method=name, counts=counts, **config)
            decoded = table.lookup(np.arange(len(rows)))
            label = name + "".join(f", {k}={v}" for k, v in config.items())
            found.append(
                {"method": label, "bytes_per_row": table.nbytes / len(rows), "error": relative_error(decoded, rows)}
            )
            print(f"{label:30} {found[-1]['bytes_per_row']:8.2f} bytes {found[-1]['error']:.3g}")
    print(timing.save("errors", {"table": "GloVe 6B 50d, first 20,000 rows", "rows": found}))
