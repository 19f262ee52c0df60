"""Tables written by every released format version still decode to the same bits."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import registry
from embstore.pipeline import Pipeline

GOLDEN = Path(__file__).parent / "golden"
TABLES = sorted(p.parent for p in GOLDEN.glob("v*/*/decoded.npy"))


def test_every_method_and_transform_has_one():
    tables = [embstore.open(p / "table") for p in TABLES]
    assert {t.method.id for t in tables} >= set(registry.names())
    assert {t.id for table in tables for t in table.transforms} >= set(registry.transform_names())


def learned(path):
    """Whether an array comes from training, or from algebra or clustering whose last bits depend on the machine."""
    table = embstore.open(path / "table")
    if table.method.id in registry.trained():
        return True
    return {t.id for t in table.transforms} - {"center", "rotate", "truncate"} or (
        table._stored.shared and not table.transforms and table.method.id not in ("nf4", "pruned")
    )


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.name)
def test_decodes(path):
    table = embstore.open(path / "table")
    decoded = np.load(path / "decoded.npy")
    assert table.verify() == []
    bound = table.method.native_tolerance * np.abs(decoded).max() if table.method.native_tolerance else 0.0
    np.testing.assert_allclose(table.lookup(np.arange(11)), decoded, rtol=0, atol=bound)
    np.testing.assert_allclose(table["key 3"], decoded[3], rtol=0, atol=bound)


@pytest.mark.parametrize("path", [p for p in TABLES if not learned(p)], ids=lambda p: p.name)
def test_is_written_the_same_today(path, tmp_path):
    made = runpy.run_path(str(GOLDEN / "make.py"))
    old = embstore.open(path / "table")
    keys = [f"key {i}" for i in range(11)]
    method = Pipeline(old.transforms, old.method) if old.transforms else old.method
    embstore.compress(made["rows"](), tmp_path / "table", method=method, keys=keys, counts=made["counts"]())
    for spec in old._stored.specs:
        for file in sorted((path / "table" / spec.name).rglob("*")):
            if file.is_file():
                assert (tmp_path / "table" / file.relative_to(path / "table")).read_bytes() == file.read_bytes()
