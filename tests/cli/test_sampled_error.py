"""The error that a compression reports, from a sample of its source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore.export import export
from embstore.report import sampled_error
from embstore.sources import open_source


def test_the_sample_is_spread_over_the_source(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((20_000, 3)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    # Half of the rows are wrong in the table: a sample of the first rows alone would not see it.
    wrong = rows.copy()
    wrong[10_000:] *= 2
    table = embstore.compress(wrong, tmp_path / "t.emb", "float32")
    with open_source(tmp_path / "v.npy") as source:
        error, compared = sampled_error(source, table, max_rows=8192)
    assert 8000 <= compared <= 8192
    assert error == pytest.approx(0.5, abs=0.1)


def test_the_sample_of_text_is_spread_too(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((5_000, 3)).astype(np.float32)
    wrong = rows.copy()
    wrong[2_500:] *= 2
    truth = embstore.compress(rows, tmp_path / "t.emb", "float32")
    export(truth, tmp_path / "v.txt")
    table = embstore.compress(wrong, tmp_path / "w.emb", "float32")
    with open_source(tmp_path / "v.txt") as source:
        error, compared = sampled_error(source, table, max_rows=2048)
    assert 1500 <= compared <= 2048
    assert error == pytest.approx(0.5, abs=0.2)


def test_an_error_of_zeros_is_not_a_number(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.zeros((4, 3), np.float32))
    table = embstore.compress(tmp_path / "z.npy", tmp_path / "z.emb", "int8")
    with open_source(tmp_path / "z.npy") as source:
        assert sampled_error(source, table) == (None, 4)
