"""Shared data, and a way to read a source whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore.sources import RowSource, open_source

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data() -> Callable[[str], Path]:
    """The path of a file of the shared data; the test is skipped where it is absent."""
    base = Path(os.environ.get("EMBSTORE_TEST_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = base / name
        if not path.exists():
            pytest.skip(f"test data {name} is absent; set EMBSTORE_TEST_DATA")
        return path

    return find


def whole(source: RowSource, max_rows: int = 7, start: int = 0) -> tuple[np.ndarray, list[Any]]:
    """All rows and keys from `start`, checking what every chunk promises."""
    rows, keys = [], []
    at = start
    for chunk in source.chunks(max_rows, start):
        assert chunk.start == at
        assert chunk.rows.dtype == np.float32
        assert chunk.rows.flags.c_contiguous
        assert 1 <= len(chunk.rows) <= max_rows
        assert chunk.rows.shape[1] == source.shape.embedding_dim
        at += len(chunk.rows)
        rows.append(chunk.rows.copy())
        if chunk.keys is not None:
            keys += list(chunk.keys)
    assert at == source.shape.num_embeddings
    assert len(keys) == max(0, source.num_keys - start)
    return np.concatenate(rows), keys


@pytest.fixture
def read() -> Callable[..., tuple[np.ndarray, list[Any]]]:
    """Open and read whole, twice in different chunks and once from the middle; all must agree."""

    def reader(source: Any, **options: Any) -> tuple[np.ndarray, list[Any]]:
        with open_source(source, **options) as opened:
            rows, keys = whole(opened, 10_000)
            again, keys_again = whole(opened, 7)
            np.testing.assert_array_equal(rows, again)
            assert keys == keys_again
            middle = len(rows) // 2
            tail, tail_keys = whole(opened, 11, middle)
            np.testing.assert_array_equal(rows[middle:], tail)
            assert keys[middle:] == tail_keys
            return rows, keys

    return reader
