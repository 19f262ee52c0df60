"""Rows that are not in memory are read ahead in bulk: the same rows, and nothing kept but the page cache."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore.format import open_table

ROWS, DIM = 200_000, 37


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cold") / "t"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embstore.format.layout.SHARD_BYTES", 2 << 20)
        embstore.compress(np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32), path)
    assert len(open_table(path).shards) == 7
    return path


def drop_cache(path: Path) -> None:
    """Forget the files' pages, where the system can be asked to; elsewhere the rows must be right all the same."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for file in (p for p in path.rglob("*") if p.is_file()):
        with file.open("rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("count", [1, 1023, 1024, 50_000])
def test_cold_rows_are_the_same(path: Path, count: int) -> None:
    ids = np.random.default_rng(count).integers(0, ROWS, count)
    ids[-1] = ROWS - 1
    expected = embstore.open(path, mmap=False).lookup(ids)
    bags = embstore.open(path, mmap=False).bag(ids[: count // 4 * 4].reshape(-1, 4))
    gc.collect()
    drop_cache(path)
    np.testing.assert_array_equal(embstore.open(path).lookup(ids), expected)
    gc.collect()
    drop_cache(path)
    np.testing.assert_array_equal(embstore.open(path).bag(ids[: count // 4 * 4].reshape(-1, 4)), bags)


def test_a_cold_batch_leaves_few_faults(path: Path) -> None:
    gc.collect()
    drop_cache(path)
    table = embstore.open(path)
    ids = np.random.default_rng(0).integers(0, ROWS, 50_000)
    table.lookup(ids[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    table.lookup(ids)
    # Without reading ahead every one of its 2,200 pages would be a fault that waits for the disk alone.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before < 500


def test_arrays_outlive_their_table(path: Path) -> None:
    first, last = (open_table(path).shards[k]["codes"] for k in (0, -1))
    gc.collect()
    assert int(first.sum()) and int(last.sum()) and not last.flags.writeable
