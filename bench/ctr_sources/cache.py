"""Click data as a memory-mapped array of ids, made once.

A cache is a folder: `ids.npy`, int32 (n, fields), rows ordered train, validation, test; `labels.npy`, uint8; `seen.npy`
and `clicked.npy`, for each id of each field its training samples and those with label 1; `about.json`. Making it takes
12 bytes of disk a value, of which 4 stay, and memory for the distinct values of one field.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embstore.errors import SourceError

from ..metrics import auc
from . import coding
from .source import Source, Split

VERSION = 1
RATED = 1 << 20  # validation rows that choose the field of the popularity baseline


@dataclass(frozen=True)
class Mapped:
    """Samples of a click model in files; the attributes of `ctr_data.Clicks`, with ranges of rows as parts."""

    name: str
    fields: npt.NDArray[np.int32]
    labels: npt.NDArray[np.uint8]
    field_sizes: tuple[int, ...]
    train: range
    valid: range
    test: range
    item: int
    counts: npt.NDArray[np.int64]
    clicked: npt.NDArray[np.int64]
    about: dict[str, Any]

    def popularity(self, rows: range, item: int | None = None) -> npt.NDArray[np.float64]:
        """As `ctr_data.Clicks.popularity`, of field `item`."""
        at = self.item if item is None else item
        first = sum(self.field_sizes[:at])
        own = slice(first, first + self.field_sizes[at])
        share = self.clicked[own].sum() / max(self.counts[own].sum(), 1)
        scores = (self.clicked[own] + share) / (self.counts[own] + 1)
        return scores[np.asarray(self.fields[rows.start : rows.stop, at])]


def load(source: Source, cache: Path, seed: int = 0) -> Mapped:
    """The mapped form of `source` in folder `cache`, made if it is not there.

    Raises `SourceError` where the folder of that name holds other data, and what reading raises.
    """
    folder = cache / source.name
    about = {
        "version": VERSION, "fields": list(source.fields), "split": source.split, "seed": seed, **source.about,
    }  # fmt: skip
    if not (folder / "about.json").exists():
        _make(source, folder, about, seed)
    found = json.loads((folder / "about.json").read_text())
    if found["source"] != json.loads(json.dumps(about)):
        differs = next(k for k in {**found["source"], **about} if found["source"].get(k) != about.get(k))
        raise SourceError(
            f"cache {folder} is of other data: its {differs} must be {about.get(differs)!r}, found "
            f"{found['source'].get(differs)!r}; delete that folder or give another --cache or --name"
        )
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "labels", "seen", "clicked")}
    n, a, b = found["rows"], found["train"], found["train"] + found["valid"]
    if arrays["ids"].shape != (n, len(source.fields)) or arrays["labels"].shape != (n,):
        raise SourceError(f"cache {folder} must have {n} rows, found others; delete that folder")
    return Mapped(
        source.name, arrays["ids"], arrays["labels"], tuple(found["field_sizes"]), range(a), range(a, b), range(b, n),
        found["item"], np.asarray(arrays["seen"]), np.asarray(arrays["clicked"]), about,
    )  # fmt: skip


def _make(source: Source, folder: Path, about: dict[str, Any], seed: int) -> None:
    """Write the cache beside its place and rename it: an interrupted one is not taken for whole."""
    work = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        n = _columns(source, work)
        columns = [work / f"column{f}" for f in range(len(source.fields))]
        sizes = source.sizes or tuple(coding.recode(column) for column in columns)
        parts = _parts(work, n, source.split, seed)
        starts = range(0, n, coding.CHUNK)
        held = [sum(int((parts[i : i + coding.CHUNK] == p).sum()) for i in starts) for p in range(3)]
        if min(held) == 0:
            raise SourceError(
                f"data {source.name!r} must have rows to train, validate and test on, found {held[0]}, {held[1]} and "
                f"{held[2]} of {n}; give more rows, or --split random"
            )
        _rows(work, columns, sizes, parts, held)
        for name in ("groups", "parts", "labels", *(c.name for c in columns)):
            (work / name).unlink()
        known = {"rows": n, "train": held[0], "valid": held[1], "field_sizes": list(sizes), "item": source.item or 0}
        if source.item is None:
            known["item"] = _best_field(work, known)
        (work / "about.json").write_text(json.dumps({"source": about, **known}))
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _columns(source: Source, work: Path) -> int:
    """Keys of each field in a file of its own, labels and groups in theirs; the number of rows."""
    names = [*(f"column{f}" for f in range(len(source.fields))), "labels", "groups"]
    files = [(work / name).open("wb") for name in names]
    n = 0
    try:
        for keys, labels, groups in source.chunks():
            for file, values in zip(files, [*keys.T, labels.astype(np.uint8), groups.astype(np.int32)], strict=True):
                file.write(np.ascontiguousarray(values).tobytes())
            n += len(labels)
    finally:
        for file in files:
            file.close()
    if n == 0:
        raise SourceError(f"data {source.name!r} must have rows, found none; check --path")
    return n


def _parts(work: Path, n: int, split: Split, seed: int) -> npt.NDArray[np.uint8]:
    """In a file: 0 for rows of training, 1 for those of validation, 2 for those of test."""
    groups = np.memmap(work / "groups", np.int32, "r")
    parts = np.memmap(work / "parts", np.uint8, "w+", shape=(n,))
    blocks = [slice(start, start + coding.CHUNK) for start in range(0, n, coding.CHUNK)]
    rng = np.random.default_rng(seed)
    low, high = min(groups[own].min() for own in blocks), max(groups[own].max() for own in blocks)
    held = n // 7
    if split != "last seventh":  # one group alone is no day after others
        held = sum(int((groups[own] == high).sum()) for own in blocks) if high > low else 0
    past = 0  # rows of the held part so far
    for own in blocks:
        block = groups[own]
        if split == "random":
            parts[own] = np.searchsorted([0.8, 0.9], rng.random(len(block)), "right")
        elif split == "parts" and high == 2:
            parts[own] = block
        else:
            later = (block == high) & (held > 0)
            if split == "last seventh":
                later = np.arange(own.start, own.start + len(block)) >= n - held
            place = past + np.cumsum(later)
            parts[own] = np.where(later, np.where(place > held // 2, 2, 1), 0)
            past = int(place[-1])
    return parts


def _rows(
    work: Path, columns: list[Path], sizes: tuple[int, ...], parts: npt.NDArray[np.uint8], held: list[int]
) -> None:
    """Columns to rows, those of each part together, and what the training part counts."""
    n = len(parts)
    ids = np.lib.format.open_memmap(work / "ids.npy", "w+", np.int32, (n, len(columns)))
    labels = np.lib.format.open_memmap(work / "labels.npy", "w+", np.uint8, (n,))
    first = np.cumsum([0, *sizes[:-1]])
    seen, clicked = np.zeros(sum(sizes), np.int64), np.zeros(sum(sizes), np.int64)
    cursor = [0, held[0], held[0] + held[1]]
    keys = [np.memmap(column, np.uint64, "r") for column in columns]
    truth = np.memmap(work / "labels", np.uint8, "r")
    for start in range(0, n, coding.CHUNK // 8):
        own = slice(start, start + coding.CHUNK // 8)
        block = np.stack([column[own] for column in keys], axis=1).astype(np.int32)
        for p in range(3):
            rows, their = block[parts[own] == p], truth[own][parts[own] == p]
            ids[cursor[p] : cursor[p] + len(rows)] = rows
            labels[cursor[p] : cursor[p] + len(rows)] = their
            cursor[p] += len(rows)
            if p == 0:
                np.add.at(seen, rows + first, 1)
                np.add.at(clicked, rows[their == 1] + first, 1)
    ids.flush()
    labels.flush()
    np.save(work / "seen.npy", seen)
    np.save(work / "clicked.npy", clicked)


def _best_field(work: Path, known: dict[str, Any]) -> int:
    """The field whose click rates order the first validation rows best."""
    arrays = [np.load(work / f"{name}.npy", mmap_mode="r") for name in ("ids", "labels", "seen", "clicked")]
    a = known["train"]
    rows = range(a, a + min(known["valid"], RATED))
    data = Mapped(
        "", arrays[0], arrays[1], tuple(known["field_sizes"]), range(a), rows, rows, 0, arrays[2], arrays[3], {}
    )
    scores = [
        auc(data.labels[rows.start : rows.stop], data.popularity(rows, f)) for f in range(len(known["field_sizes"]))
    ]
    return int(np.argmax(np.nan_to_num(scores)))
