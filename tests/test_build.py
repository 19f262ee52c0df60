"""What setup.py hands to the compiler and to the archive; a stand-in for the compiler makes that cheap to ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COMPILER = f"""#!{sys.executable}
import pathlib, sys
given = sys.argv[1:]
pathlib.Path("calls").open("a").write("\\t".join(given) + "\\n")
if "broken.cpp" in given[-3]:
    sys.exit("broken.cpp:1: error: no such thing")
pathlib.Path(given[given.index("-o") + 1]).touch()
"""


class Tree:
    """A small csrc beside the project's own setup.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, root)
        for name in ("core/pool.cpp", "core/pool.h", "methods/one.cpp", "methods/two.cpp", "search/scan.cpp"):
            self.write("csrc/" + name)
        self.write("csrc/methods/_shared.h", '#pragma once\n#include "core/pool.h"\n#include <vector>\n')
        self.write("csrc/core/pool.cpp", '#include "core/pool.h"\n#include "core/pool.h"\n')
        self.write("csrc/methods/one.cpp", '  #  include "methods/_shared.h"\n')
        self.write("embstore/__init__.py")
        self.write("outside/nanobind/__init__.py", "__version__ = '0'")
        self.write("outside/nanobind/src/nb_combined.cpp")
        self.write("c++", COMPILER).chmod(0o755)
        compiler = str(root / "c++")
        path = os.pathsep.join([str(root / "outside"), os.environ.get("PYTHONPATH", "")])
        self.env = {**os.environ, "CC": compiler, "CXX": compiler, "EMBSTORE_JOBS": "4", "PYTHONPATH": path}
        self.env.pop("EMBSTORE_SANITIZE", None)

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def build(self, **env: str) -> subprocess.CompletedProcess[str]:
        (self.root / "calls").write_text("")
        return subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace"],
            cwd=self.root, env={**self.env, **env}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def calls(self) -> list[list[str]]:
        return [line.split("\t") for line in (self.root / "calls").read_text().splitlines()]

    def compiled(self) -> list[str]:
        """The sources of the last build, each as often as it was compiled."""
        sources = [call[call.index("-c") + 1] for call in self.calls() if "-c" in call]
        return sorted("/".join(Path(source).parts[-2:]) for source in sources)

    def linked(self) -> list[str]:
        (link,) = [call for call in self.calls() if "-c" not in call]
        return [each for each in link if each.endswith(".o")]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def levels(tree: Tree) -> int:
    return len({Path(each).parts[2] for each in tree.linked() if "csrc/methods" in each})


def test_loops_are_compiled_for_each_instruction_set_and_the_rest_once(tree: Tree) -> None:
    assert tree.build().returncode == 0
    each = levels(tree)
    loops = [name for name in ("methods/one.cpp", "methods/two.cpp", "search/scan.cpp") for _ in range(each)]
    assert tree.compiled() == sorted(["core/pool.cpp", "src/nb_combined.cpp", *loops])
    assert each >= 1


def test_a_second_build_compiles_what_changed(tree: Tree) -> None:
    tree.build()
    order, each = tree.linked(), levels(tree)
    tree.build()
    assert tree.compiled() == []
    assert tree.linked() == order
    tree.write("csrc/methods/two.cpp")
    tree.build()
    assert tree.compiled() == ["methods/two.cpp"] * each
    tree.write("csrc/core/pool.h")
    tree.build()
    assert tree.compiled() == sorted(["core/pool.cpp", *["methods/one.cpp"] * each])  # what includes it, and no other


def test_other_flags_make_other_objects(tree: Tree) -> None:
    tree.build()
    plain = tree.linked()
    tree.build(EMBSTORE_SANITIZE="address")
    assert not set(plain) & set(tree.linked())
    tree.build()
    assert tree.compiled() == []
    assert tree.linked() == plain
    tree.write("outside/nanobind/__init__.py", "__version__ = '1.10'")
    tree.build()
    assert len(tree.compiled()) == len(plain)


def test_code_for_every_processor_is_linked_first(tree: Tree) -> None:
    """A function that several objects hold is taken from the first of them."""
    tree.build(EMBSTORE_JOBS="3")
    kinds = [Path(each).parts[2].split("-")[0] for each in tree.linked()]
    assert kinds[:3] == ["nanobind", "plain", "ref"]
    rest = kinds[kinds.index("ref") :]
    assert rest == sorted(rest, key=["ref", "neon", "avx2", "avx512"].index)


def test_what_does_not_compile_is_named(tree: Tree) -> None:
    tree.write("csrc/methods/broken.cpp")
    done = tree.build()
    assert done.returncode != 0
    assert "error: no such thing" in done.stderr
    assert "csrc/methods/broken.cpp did not compile for ref" in done.stderr


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_a_senseless_number_of_jobs_is_refused(tree: Tree, jobs: str) -> None:
    done = tree.build(EMBSTORE_JOBS=jobs)
    assert done.returncode != 0
    assert f"EMBSTORE_JOBS must be a number of compilers from 1 on, found {jobs!r}" in done.stderr


def test_the_source_archive_holds_what_a_build_needs_and_no_more(tmp_path: Path) -> None:
    top = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "csrc", "embstore", "tests/*.py", *top],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    files = {name for name in listed if (ROOT / name).exists()}
    for name in files:  # a copy: an older list of sources lying in the tree would be read too
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "setup.py", "-q", "sdist", "--formats=tar"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as tar:
        held = {each.name.partition("/")[2] for each in tar.getmembers() if each.isfile()}
    made = {name for name in held if name.startswith("embstore.egg-info/") or name in ("PKG-INFO", "setup.cfg")}
    assert held - made == {name for name in files if not name.startswith("tests/")}
