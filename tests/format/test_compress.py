"""compress: budgets, values that are not finite, interruption, the same bytes for the same seed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from format_toy import ArraySource, Toy

from embstore.arrays import TableShape
from embstore.budgets import parse_budget
from embstore.compression import compress
from embstore.errors import BudgetError, ConfigError, DestinationExistsError, SourceError
from embstore.format import open_table, verify

SHAPE = TableShape(1000, 16)


@pytest.fixture
def values(rooms: None, monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> np.ndarray:
    monkeypatch.setattr("embstore.compression.CHUNK_BYTES", 256 * 64)
    return np.random.default_rng(0).standard_normal((5000, 16)).astype("f4")


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("budget", "nbytes"),
    [(0.1, 6400), ("10%", 6400), ("0.1", 6400), ("4bpd", 8000), (123, 123), ("123", 123), ("64MB", 64 * 10**6),
     ("1.5 KiB", 1536), ("2b", 2)],
)  # fmt: skip
def test_budgets(budget: object, nbytes: int) -> None:
    assert parse_budget(budget, SHAPE) == nbytes  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [True, 0, -1, 1.5, "", "ten", "4 apples", "-3MB", None, float("nan"), float("inf")])
def test_bad_budgets(budget: object) -> None:
    with pytest.raises(ConfigError, match="budget"):
        parse_budget(budget, SHAPE)  # type: ignore[arg-type]


def test_values_come_back(tmp_path: Path, values: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    compress(ArraySource(values), tmp_path / "t", Toy(), progress=lambda *a: seen.append(a))
    stored = open_table(tmp_path / "t")
    assert verify(stored) == [] and len(stored.shards) > 1
    out = np.concatenate([s["codes"] * s["affine"][:, 0, :1] + s["affine"][:, 0, 1:] for s in stored.shards])
    assert np.abs(out - values).max() < 0.02
    assert seen[-1] == (5000, 5000) and seen == sorted(seen)
    assert stored.provenance["source"] == "array"


def test_budget_floor_is_named(tmp_path: Path, values: np.ndarray) -> None:
    compress(ArraySource(values), tmp_path / "t", Toy(), budget=5000 * 24)
    with pytest.raises(BudgetError, match="needs 120,000 bytes"):
        compress(ArraySource(values), tmp_path / "u", Toy(), budget=5000 * 24 - 1)
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3333, 4999])
def test_not_finite(tmp_path: Path, values: np.ndarray, bad: float, row: int) -> None:
    values[row, 7] = bad
    with pytest.raises(SourceError, match=f"row {row}, column 7 of 'array' must be finite"):
        compress(ArraySource(values), tmp_path / "t", Toy())
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_not_finite_kept(tmp_path: Path, values: np.ndarray) -> None:
    values[3, 3] = np.nan
    with np.errstate(all="ignore"):
        compress(ArraySource(values), tmp_path / "t", Toy(), nonfinite="keep")
    assert verify(tmp_path / "t") == []


def test_ctrl_c_then_again(tmp_path: Path, values: np.ndarray) -> None:
    def stop(row: int) -> None:
        if row >= 3000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(ArraySource(values, stop), tmp_path / "t", Toy())
    assert not (tmp_path / "t").exists()
    started: list[int] = []
    compress(ArraySource(values, started.append), tmp_path / "t", Toy())
    assert started[0] > 0
    compress(ArraySource(values), tmp_path / "whole", Toy())
    assert tree(tmp_path / "t") == tree(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["t", "whole"]


def test_truncated_source(tmp_path: Path, values: np.ndarray) -> None:
    source = ArraySource(values)
    whole = source.chunks
    source.chunks = lambda n, start=0: (c for c in whole(n, start) if c.start < 2000)  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="5000 rows, found 2048"):
        compress(source, tmp_path / "t", Toy())
    assert os.listdir(tmp_path) == []


def test_destination_is_looked_at_first(tmp_path: Path, values: np.ndarray) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(DestinationExistsError):
        compress("no such source", tmp_path / "t", Toy())


def test_bad_arguments(tmp_path: Path, values: np.ndarray) -> None:
    for wrong in ({"nonfinite": "drop"}, {"on_duplicate": "first"}):
        with pytest.raises(ConfigError):
            compress(ArraySource(values), tmp_path / "t", Toy(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        compress(ArraySource(values), tmp_path / "t", "no_such_method")
    assert os.listdir(tmp_path) == []


def test_no_rows(tmp_path: Path, values: np.ndarray) -> None:
    compress(ArraySource(values[:0]), tmp_path / "t", Toy())
    assert open_table(tmp_path / "t").shards == []
