"""Sets of tables: made whole or not at all, looked up side by side, refused when they are not what was made."""

import json
import pickle
import shutil

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import embstore
from embstore import errors
from embstore.cli import app

RNG = np.random.default_rng(0)
USERS, ITEMS = (RNG.standard_normal(shape, dtype=np.float32) for shape in ((300, 8), (50, 12)))


def make(path, **more):
    return embstore.make_set(
        path,
        {
            "user": lambda path: embstore.compress(USERS, path, "float32"),
            "item: a/b": lambda path: embstore.compress(ITEMS, path, "int8", keys=[f"i{k}" for k in range(50)]),
        },
        **more,
    )


def test_lookup_is_that_of_each_table(tmp_path):
    made = make(tmp_path / "set")
    for tables in (made, embstore.open_set(tmp_path / "set", mmap=False), pickle.loads(pickle.dumps(made))):
        assert list(tables) == ["user", "item: a/b"] and len(tables) == 2
        ids = np.stack([RNG.integers(0, 300, 40), RNG.integers(0, 50, 40)], axis=1)
        rows = tables.lookup(ids)
        assert np.array_equal(rows[:, :8], USERS[ids[:, 0]])
        assert np.array_equal(rows[:, 8:], tables["item: a/b"].lookup(ids[:, 1]))
        assert np.array_equal(tables["item: a/b"]["i3"], tables["item: a/b"][3])
        assert tables.nbytes == sum(t.nbytes for t in tables.values())
        assert tables.verify() == []
    out = np.empty((40, 20), np.float32)
    assert made.lookup(ids, out) is out and np.array_equal(out, rows)
    assert "user, item: a/b" in repr(made)


def test_zarr_reads_every_table(tmp_path):
    make(tmp_path / "set")
    group = zarr.open_group(tmp_path / "set", mode="r")
    assert np.array_equal(group["0/values"][:], USERS)
    assert group.attrs["embstore_set"]["tables"][1]["name"] == "item: a/b"


def test_a_failing_maker_leaves_nothing(tmp_path):
    def fails(path):
        raise KeyError("no such rows")

    before = {"user": lambda path: embstore.compress(USERS, path, "float32")}
    with pytest.raises(KeyError):
        embstore.make_set(tmp_path / "set", {**before, "item": fails})
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "set")
    with pytest.raises(KeyError):
        embstore.make_set(tmp_path / "set", {"item": fails}, overwrite=True)
    assert embstore.open_set(tmp_path / "set").verify() == []


def test_overwriting(tmp_path):
    make(tmp_path / "set")
    with pytest.raises(errors.DestinationExistsError, match="exists already"):
        make(tmp_path / "set")
    assert list(make(tmp_path / "set", overwrite=True)) == ["user", "item: a/b"]
    embstore.compress(USERS, tmp_path / "set", "int8", overwrite=True)
    assert embstore.open(tmp_path / "set").num_embeddings == 300
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("ids", "error", "text"),
    [
        (np.zeros((3, 3), int), errors.ShapeError, r"\(n, 2\)"),
        (np.zeros(2, int), errors.ShapeError, r"\(n, 2\)"),
        (np.zeros((3, 2)), errors.IdTypeError, "integers"),
        ([[0, 50]], errors.IdRangeError, "50"),
    ],
)
def test_wrong_ids(tmp_path, ids, error, text):
    with pytest.raises(error, match=text):
        make(tmp_path / "set").lookup(ids)


def test_wrong_out(tmp_path):
    with pytest.raises(errors.ShapeError, match="out must be"):
        make(tmp_path / "set").lookup([[0, 0]], np.empty((1, 19), np.float32))


def test_names(tmp_path):
    with pytest.raises(errors.ConfigError, match="the name of a table"):
        embstore.make_set(tmp_path / "set", {"": lambda path: embstore.compress(USERS, path)})
    assert list(embstore.make_set(tmp_path / "set", {})) == []


def test_the_wrong_door(tmp_path):
    make(tmp_path / "set")
    with pytest.raises(errors.FormatError, match=r"use embstore\.open_set"):
        embstore.open(tmp_path / "set")
    with pytest.raises(errors.FormatError, match=r"use embstore\.open$"):
        embstore.open_set(tmp_path / "set" / "0")
    with pytest.raises(errors.TableNotFoundError, match="no set of tables"):
        embstore.open_set(tmp_path / "none")


def test_a_table_that_was_exchanged(tmp_path):
    make(tmp_path / "set")
    embstore.compress(USERS, tmp_path / "set" / "0", "int8", overwrite=True)
    with pytest.raises(errors.CorruptionError, match="'user' of set 'set' is not the one"):
        embstore.open_set(tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "0")
    with pytest.raises(errors.TableNotFoundError):
        embstore.open_set(tmp_path / "set")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("format_version", 2, errors.FormatVersionError),
        ("requires", ["more"], errors.FormatVersionError),
        ("tables", {}, errors.FormatError),
        ("tables", [7], errors.FormatError),
        ("tables", [{"name": "a", "path": "0"}], errors.FormatError),
        ("tables", [{"name": "a", "path": "../elsewhere", "digest": "sha256:0"}], errors.FormatError),
        ("tables", [{"name": "a", "path": "/etc", "digest": "sha256:0"}], errors.FormatError),
        ("tables", [{"name": "a", "path": "0", "digest": "sha256:0"}] * 2, errors.FormatError),
        ("tables", [], errors.CorruptionError),
        ("digest", "sha256:0", errors.CorruptionError),
        (None, [], errors.FormatError),
    ],
)
def test_a_damaged_manifest(tmp_path, field, value, error):
    make(tmp_path / "set")
    file = tmp_path / "set" / "zarr.json"
    group = json.loads(file.read_text())
    if field is None:
        group["attributes"] = value
    else:
        group["attributes"]["embstore_set"][field] = value
    file.write_text(json.dumps(group))
    with pytest.raises(error):
        embstore.open_set(tmp_path / "set")


def test_command_line(tmp_path):
    path = str(make(tmp_path / "set").path)
    run = CliRunner()
    shown = run.invoke(app, ["inspect", path]).stdout
    assert "item: a/b" in shown and "int8, 50 x 12" in shown and "50 keys" in shown
    found = json.loads(run.invoke(app, ["inspect", path, "--json"]).stdout)
    assert [t["num_embeddings"] for t in found["tables"]] == [300, 50]
    assert run.invoke(app, ["verify", path]).exit_code == 0
    codes = tmp_path / "set" / "0" / "values" / "c" / "0" / "0"
    codes.write_bytes(b"\1" + codes.read_bytes()[1:])
    assert run.invoke(app, ["verify", path]).exit_code == 1
