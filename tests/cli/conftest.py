"""A command line that is run in this process, and files for it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import DIM, ROWS, WORDS, Done, Run

import embstore
from embstore import cli


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["embstore", *map(str, args)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture
def npy(tmp_path: Path, vectors: np.ndarray) -> Path:
    np.save(tmp_path / "v.npy", vectors)
    return tmp_path / "v.npy"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("".join(f"{w}\n" for w in WORDS), encoding="utf-8")
    return tmp_path / "words.txt"


@pytest.fixture
def table(tmp_path: Path, vectors: np.ndarray) -> Path:
    embstore.compress(vectors, tmp_path / "t.emb", "float32", keys=WORDS)
    return tmp_path / "t.emb"


@pytest.fixture
def keyless(tmp_path: Path, vectors: np.ndarray) -> Path:
    embstore.compress(vectors, tmp_path / "k.emb", "float32")
    return tmp_path / "k.emb"
