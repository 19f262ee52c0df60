"""Where the native extension cannot be loaded: numpy serves what it can, and the rest says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore

ROOT = Path(__file__).parents[1]

BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "embstore._native":
            raise ImportError("libstdc++.so.6: not found")

sys.meta_path.insert(0, Missing())
import numpy as np
import embstore
assert "embstore._native" not in sys.modules
path, out = sys.argv[1:3]
"""
SENTENCE = (
    "{} needs embstore's native extension, which could not be loaded (libstdc++.so.6: not found); "
    "reinstall with `pip install --force-reinstall --no-binary embstore embstore` and a C++17 compiler"
)


def run(code: str, path: Path, out: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, str(path), str(out)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((500, 24)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path, values: np.ndarray) -> Path:
    embstore.compress(values, tmp_path / "t", "int4", keys=[f"w{i}" for i in range(500)])
    return tmp_path / "t"


@pytest.mark.parametrize("mmap", [True, False])
def test_ids_are_served_by_numpy_bit_for_bit(tmp_path: Path, path: Path, mmap: bool) -> None:
    out = tmp_path / "rows.npz"
    explained = run(
        f"""
table = embstore.open(path, mmap={mmap})
ids = np.array([[3, 499], [0, 3]])
np.savez(out, lookup=table.lookup(ids), one=table[7], bag=table.bag(ids, mode="mean"),
         half=table.lookup(ids, np.empty((2, 2, 24), np.float16)), blocks=np.concatenate(list(table.blocks(100))))
assert table.verify() == []
print(table.explain())
""",
        path,
        out,
    )
    assert "numpy (the native extension is not installed)" in explained
    table = embstore.open(path)
    ids = np.array([[3, 499], [0, 3]])
    assert table.explain().startswith("lookup, bag: native")
    with np.load(out) as rows:
        np.testing.assert_array_equal(rows["lookup"], table.lookup(ids))
        np.testing.assert_array_equal(rows["one"], table[7])
        np.testing.assert_array_equal(rows["bag"], table.bag(ids, mode="mean"))
        np.testing.assert_array_equal(rows["half"], table.lookup(ids, np.empty((2, 2, 24), np.float16)))
        np.testing.assert_array_equal(rows["blocks"], table.lookup(np.arange(500)))


def test_a_table_without_keys_is_written_bit_for_bit(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "values.npy", values)
    made = run("embstore.compress(path, out, 'int4')", tmp_path / "values.npy", tmp_path / "numpy")
    assert made == ""
    embstore.compress(tmp_path / "values.npy", tmp_path / "native", "int4")

    def tree(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert tree(tmp_path / "numpy") == tree(tmp_path / "native")


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("embstore.open(path)['w3']", "reading keys"),
        ("embstore.open(path).lookup(['w3', 'w4'])", "reading keys"),
        ("embstore.open(path).lookup(['nothing'], oov='zeros')", "reading keys"),
        ("'w3' in embstore.open(path)", "reading keys"),
        ("embstore.open(path).keys", "reading keys"),
        ("embstore.compress(np.ones((3, 2), 'f4'), out, keys=['a', 'b', 'c'])", "writing keys"),
    ],
)
def test_keys_say_what_is_missing(tmp_path: Path, path: Path, call: str, what: str) -> None:
    code = f"""
try:
    {call}
except ImportError as error:
    print(type(error).__name__, error)
"""
    assert run(code, path, tmp_path / "u") == f"MissingDependencyError {SENTENCE.format(what)}"
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize(
    ("args", "status"), [(["lookup", "--ids", "3"], 0), (["inspect"], 0), (["verify"], 0), (["lookup", "w3"], 1)]
)
def test_the_command_line(tmp_path: Path, path: Path, args: list[str], status: int) -> None:
    code = f"""
from embstore.cli import main
sys.argv = ["embstore", {args[0]!r}, path, *{args[1:]!r}]
main()
"""
    done: Any = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, str(path), ""], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == status, done.stderr
    if status:
        assert "needs embstore's native extension" in done.stderr and "Traceback" not in done.stderr
