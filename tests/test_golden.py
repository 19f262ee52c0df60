"""Tables written by every released format version still decode to the same bits."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import registry

GOLDEN = Path(__file__).parent / "golden"
TABLES = sorted(p.parent for p in GOLDEN.glob("v*/*/decoded.npy"))


def test_every_method_has_one():
    assert {embstore.open(p / "table").method.id for p in TABLES} >= set(registry.names())


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.name)
def test_decodes(path):
    table = embstore.open(path / "table")
    decoded = np.load(path / "decoded.npy")
    assert table.verify() == []
    assert np.array_equal(table.lookup(np.arange(11)), decoded)
    assert np.array_equal(table["key 3"], decoded[3])


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.name)
def test_is_written_the_same_today(path, tmp_path):
    rows = runpy.run_path(str(GOLDEN / "make.py"))["rows"]
    old = embstore.open(path / "table")
    keys = [f"key {i}" for i in range(11)]
    embstore.compress(rows(), tmp_path / "table", method=old.method, keys=keys)
    for spec in old.method.layout(embstore.open(tmp_path / "table")._stored.shape):
        for file in sorted((path / "table" / spec.name).rglob("*")):
            if file.is_file():
                assert (tmp_path / "table" / file.relative_to(path / "table")).read_bytes() == file.read_bytes()
