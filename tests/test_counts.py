"""How often rows are used: from an array, a file or a column to the methods that ask for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore.arrays import ArraySpec
from embstore.errors import SourceError, SourceNotFoundError, SourceTypeError
from embstore.methods.float32 import Float32
from embstore.pipeline import Pipeline
from embstore.sources import open_source
from embstore.sources.counts import read_counts
from embstore.transforms.center import Center

ROWS = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
COUNTS = np.arange(30)[::-1] * 2


@dataclasses.dataclass(frozen=True)
class Recording(Float32):
    """float32 that also stores the counts it was given."""

    def layout(self, shape):
        return (*super().layout(shape), ArraySpec("counts", "float64", ("counted",), "shared"))

    def fit(self, source, rng):
        return {"counts": np.zeros(0) if source.counts is None else source.counts}


@pytest.mark.parametrize("method", [Recording(), Pipeline((Center(),), Recording())])
@pytest.mark.parametrize("form", ["array", "list", "int", "float32", "path", "str"])
def test_every_form_reaches_the_method(tmp_path: Path, method: Any, form: str, monkeypatch: Any) -> None:
    given: Any = {"array": COUNTS.astype(float), "list": COUNTS.tolist(), "int": COUNTS}.get(form)
    if form == "float32":
        given = COUNTS.astype(np.float32)
    if given is None:
        np.save(tmp_path / "counts.npy", COUNTS)
        given = tmp_path / "counts.npy" if form == "path" else str(tmp_path / "counts.npy")
    monkeypatch.setattr("embstore.table.open", lambda path: embstore.format.open_table(path))
    stored = embstore.compress(ROWS, tmp_path / "t", method, counts=given)
    assert np.array_equal(stored.shared["counts"], COUNTS)


def test_none_when_not_given(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("embstore.table.open", lambda path: embstore.format.open_table(path))
    assert len(embstore.compress(ROWS, tmp_path / "t", Recording()).shared["counts"]) == 0


def test_a_column_of_the_source(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {"vec": ROWS.tolist(), "uses": COUNTS, "word": [str(i) for i in range(30)]}
    table = pa.table({**columns, "holes": [None, *range(29)]})
    pq.write_table(table, tmp_path / "t.parquet")
    for source in (open_source(table), open_source(tmp_path / "t.parquet")):
        assert np.array_equal(read_counts("uses", source), COUNTS)
        with pytest.raises(SourceError, match="numbers in column 'word'"):
            read_counts("word", source)
        with pytest.raises(SourceError, match="found nan for row 0"):
            read_counts("holes", source)
        with pytest.raises(SourceNotFoundError, match="'used', which is neither"):
            read_counts("used", source)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (COUNTS[:7], SourceError, "must be 30 numbers.*found 7 of them"),
        (COUNTS.reshape(30, 1), SourceError, r"found an array of shape \(30, 1\)"),
        (np.where(COUNTS == 4, -1, COUNTS), SourceError, "found -1 for row 27"),
        (np.where(COUNTS == 4, np.nan, COUNTS), SourceError, "found nan for row 27"),
        (np.where(COUNTS == 4, np.inf, COUNTS), SourceError, "found inf for row 27"),
        (np.zeros(30), SourceError, "only zeros"),
        (["a"] * 30, SourceTypeError, "must be numbers"),
        ("nowhere.npy", SourceNotFoundError, "'nowhere.npy', which is neither"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        embstore.compress(ROWS, tmp_path / "t", "int8", counts=given)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("content", [b"", b"word 3\n", np.ones(3).tobytes()])
def test_files_that_are_no_numbers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "counts.npy").write_bytes(content)
    with pytest.raises(SourceError, match=r"found .counts\.npy., which cannot be read"):
        embstore.compress(ROWS, tmp_path / "t", "int8", counts=tmp_path / "counts.npy")


def test_an_archive_is_not_counts(tmp_path: Path) -> None:
    np.savez(tmp_path / "counts.npz", a=COUNTS)
    with pytest.raises(SourceError, match=r"'counts.npz', an archive"):
        embstore.compress(ROWS, tmp_path / "t", "int8", counts=tmp_path / "counts.npz")


def test_other_counts_are_another_job(tmp_path: Path, monkeypatch: Any) -> None:
    """An interrupted run is continued only with the counts it had."""
    jobs = []
    from embstore.format.writer import TableWriter

    real = TableWriter.__init__

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        jobs.append(kwargs["job"])
        real(self, *args, **kwargs)

    monkeypatch.setattr(TableWriter, "__init__", spy)
    for i, counts in enumerate((COUNTS, COUNTS.tolist(), COUNTS + 1, None)):
        embstore.compress(ROWS, tmp_path / str(i), "int8", counts=counts)
    assert jobs[0] == jobs[1] and len(set(jobs)) == 3


def test_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from embstore.cli import app

    np.save(tmp_path / "rows.npy", ROWS)
    np.save(tmp_path / "counts.npy", COUNTS)
    command = ["compress", str(tmp_path / "rows.npy"), str(tmp_path / "t"), "--json", "--counts"]
    good = CliRunner().invoke(app, [*command, str(tmp_path / "counts.npy")])
    assert good.exit_code == 0 and json.loads(good.stdout)["num_embeddings"] == 30
    np.save(tmp_path / "counts.npy", COUNTS[:3])
    bad = CliRunner().invoke(app, [*command, str(tmp_path / "counts.npy"), "--overwrite"])
    assert bad.exit_code != 0
