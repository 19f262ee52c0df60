"""Word similarity and analogies on compressed word vectors: what a method costs the tasks people use vectors for.

Spearman's rank correlation of cosines with human judgements (both words lower-cased and in the table), and the share of
Google's analogy questions answered by 3CosAdd within the 30,000 most frequent words. Words are in order of frequency,
so methods that use counts are given those of Zipf's law, 1 / rank.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import embstore

from . import timing

SETS = {"WS-353": "EN-WS-353-ALL.txt", "MEN": "EN-MEN-TR-3k.txt", "SimLex-999": "EN-SIMLEX-999.txt"}
# Method, config, bits a value: of the codes, or in all where a budget or parts of a row are given.
SPECS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("float32", {}, 32), ("float16", {}, 16),
    ("int8", {}, 8), ("dynamic8", {}, 8), ("pca,tcq", {"budget": "8bpd"}, 8),
    ("int4", {}, 4), ("nf4", {}, 4), ("center,int4", {}, 4), ("rotate,int4", {}, 4), ("int4", {"block_size": 26}, 4),
    ("pca,tcq", {"budget": "4bpd"}, 4),
    ("int2", {}, 2), ("center,int2", {}, 2), ("rotate,int2", {}, 2), ("int2", {"block_size": 8}, 2),
    ("pca,tcq", {"budget": "2bpd"}, 2), ("mgqe", {"m": 25, "hot": 0.25, "cold_bits": 2}, 2),
    ("opq,mgqe", {"m": 25, "hot": 0.25, "cold_bits": 2}, 2),
)  # fmt: skip
FREQUENT = 30_000
# Largest drop of any score from float32, by bits a value.
ALLOWED = {8: 0.001, 4: 0.01, 2: 0.03}


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values at the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def pairs(file: Path, table: embstore.Table) -> tuple[list[tuple[str, str]], np.ndarray]:
    words, judged = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        fields = line.lower().split()
        if len(fields) == 3 and fields[0] in table and fields[1] in table:
            words.append((fields[0], fields[1]))
            judged.append(float(fields[2]))
    return words, np.array(judged)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def similarity(table: embstore.Table, file: Path, rows: np.ndarray | None = None) -> tuple[float, int]:
    """Of the table's rows, or of others by its keys; and how many pairs were asked."""
    words, judged = pairs(file, table)
    values = (lambda asked: table.lookup(asked)) if rows is None else lambda asked: rows[table.keys.ids(asked)]
    left, right = (unit(values([pair[i] for pair in words])) for i in (0, 1))
    return spearman((left * right).sum(axis=1), judged), len(words)


def controls(table: embstore.Table, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that tell why coarse codes in `table` may score above the rows they were made of.

    What words have in common raises every cosine and says nothing of a pair (Mu, Viswanath, "All-but-the-Top", ICLR
    2018); in GloVe it lies in one coordinate, which uniform codes clip.
    """
    top = int(np.square(rows).mean(axis=0).argmax())
    decoded = table.lookup(np.arange(len(rows)))
    centred = rows - rows.mean(axis=0)
    common = np.linalg.svd(centred[:FREQUENT], full_matrices=False)[2][:1]
    without, clipped, exact = rows.copy(), rows.copy(), decoded.copy()
    without[:, top], clipped[:, top], exact[:, top] = 0, decoded[:, top], rows[:, top]
    return {
        f"float32 without coordinate {top}": without,
        f"float32, coordinate {top} as int2 has it": clipped,
        f"int2, coordinate {top} exact": exact,
        "float32, centred": centred,
        "float32, centred, without its largest component": centred - centred @ common.T @ common,
    }


def analogies(table: embstore.Table, file: Path) -> tuple[float, int]:
    """Share of a : b = c : d answered with d, searching the codes of the most frequent words."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        questions = [line.lower().split() for line in lines if not line.startswith(":")]
    ids = np.array([table.keys.ids(words) for words in questions])
    ids = ids[((ids >= 0) & (ids < FREQUENT)).all(axis=1)]
    a, b, c = (unit(table.lookup(ids[:, i])) for i in range(3))
    frequent = np.arange(len(table)) < FREQUENT
    # Four: the three words of the question may come first.
    _, found = table.search(b - a + c, 4, "cosine", filter=frequent)
    found = np.where((found[:, :, None] == ids[:, None, :3]).any(axis=2), -1, found)
    first = found[np.arange(len(found)), np.argmax(found >= 0, axis=1)]
    return float((first == ids[:, 3]).mean()), len(ids)


def main(quick: bool = False, directory: str | None = None) -> None:
    data = Path(os.environ.get("EMBSTORE_TEST_DATA", "../shared/data"))
    rows_file = data / "words" / "glove.6B.50d.top100k.npy"
    if not rows_file.exists():
        print(f"skipped: no {rows_file.name}; set EMBSTORE_TEST_DATA to a folder that has words/{rows_file.name}")
        return
    rows = np.load(rows_file)
    with gzip.open(data / "words" / "glove.6B.50d.top100k.vocab.txt.gz", "rt", encoding="utf-8") as lines:
        keys = [line.rstrip("\n") for line in lines]
    counts = 1 / np.arange(1, len(rows) + 1)
    found: list[dict[str, Any]] = []
    reasons: dict[str, dict[str, float]] = {}
    for spec, config, bits in SPECS[:3] if quick else SPECS:
        with tempfile.TemporaryDirectory(prefix="embstore-bench-", dir=directory) as work:
            table = embstore.compress(rows, Path(work) / "t", spec, keys=keys, counts=counts, **config)
            scores = {name: similarity(table, data / "wordsim" / file) for name, file in SETS.items()}
            scores["analogies"] = analogies(table, data / "wordsim" / "questions-words.txt.gz")
            row = {
                "spec": spec + "".join(f", {k}={v}" for k, v in config.items()),
                "bytes_per_row": table.nbytes / len(table),
                "error": float(np.square(table.lookup(np.arange(len(rows))) - rows).sum() / np.square(rows).sum()),
                "allowed": ALLOWED.get(bits),
                "scores": {name: score for name, (score, _) in scores.items()},
                "asked": {name: asked for name, (_, asked) in scores.items()},
            }  # fmt: skip
            if (spec, config) == ("int2", {}):
                for what, values in controls(table, rows).items():
                    given = {name: similarity(table, data / "wordsim" / file, values)[0] for name, file in SETS.items()}
                    reasons[what] = given
                    print(f"{what:50} {given}", flush=True)
        found.append(row)
        shown = ", ".join(f"{name} {score:.4f}" for name, score in row["scores"].items())
        print(f"{row['spec']:40} {row['bytes_per_row']:7.2f} bytes  error {row['error']:.4f}, {shown}", flush=True)
    if not quick:
        print(timing.save("words", {"table": "GloVe 6B 50d, 100,000 rows", "rows": found, "controls": reasons}))
