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


# Also tells where its libraries are, as nvcc does.
NVCC = COMPILER.replace(
    "given = sys.argv[1:]",
    "given = sys.argv[1:]\nif '--dryrun' in given:\n    sys.exit('#$ TOP=x\\n#$ LIBRARIES=  \"-L/cuda/lib\"')",
)


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
        for name in ("EMBSTORE_SANITIZE", "EMBSTORE_CUDA", "CUDACXX", "CUDA_HOME"):
            self.env.pop(name, None)
        self.env["PATH"] = "/usr/bin:/bin"

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

    def with_cuda(self) -> Path:
        """csrc/cuda with what it shares, and a stand-in for nvcc that nothing finds by itself."""
        self.write("csrc/bindings_params.cpp")
        for name in ("bindings.cpp", "core/launch.cuh", "methods/one.cu", "methods/two.cu"):
            self.write(f"csrc/cuda/{name}")
        self.write("csrc/cuda/methods/one.cu", '#include "cuda/core/launch.cuh"\n')
        compiler = self.write("toolkit/bin/nvcc", NVCC)
        compiler.chmod(0o755)
        return compiler

    def calls(self) -> list[list[str]]:
        return [line.split("\t") for line in (self.root / "calls").read_text().splitlines()]

    def compiled(self) -> list[str]:
        """The sources of the last build, each as often as it was compiled."""
        sources = [call[call.index("-c") + 1] for call in self.calls() if "-c" in call]
        return sorted("/".join(Path(source).parts[-2:]) for source in sources)

    def links(self) -> dict[str, list[str]]:
        """What each extension was linked of, by its name."""
        calls = [call for call in self.calls() if "-c" not in call and "-o" in call]
        return {Path(call[call.index("-o") + 1]).name.partition(".")[0]: call for call in calls}

    def linked(self) -> list[str]:
        (link,) = self.links().values()
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


@pytest.mark.parametrize("found_by", ["CUDACXX", "CUDA_HOME", "PATH"])
def test_cuda_is_built_where_its_compiler_is(tree: Tree, found_by: str) -> None:
    nvcc = tree.with_cuda()
    where = {"CUDACXX": str(nvcc), "CUDA_HOME": str(nvcc.parents[1]), "PATH": f"{nvcc.parent}:/usr/bin:/bin"}
    done = tree.build(**{found_by: where[found_by]})
    assert done.returncode == 0, done.stderr
    assert set(tree.links()) == {"_native", "_cuda"}
    link = tree.links()["_cuda"]
    objects = [Path(each).name for each in link if each.endswith(".o")]
    assert objects == ["nb_combined.o", "bindings_params.o", "bindings.o", "one.o", "two.o"]
    assert {"-L/cuda/lib", "-lcudart_static"} <= set(link)
    assert "csrc/cuda" not in " ".join(tree.links()["_native"])
    compiled = [call for call in tree.calls() if "-c" in call and "cuda/methods/one.cu" in call[call.index("-c") + 1]]
    assert "-fmad=false" in compiled[0]
    assert any("-ffp-contract=off" in each for each in compiled[0])


def test_cuda_is_compiled_again_where_it_changed(tree: Tree) -> None:
    env = {"CUDACXX": str(tree.with_cuda())}
    tree.build(**env)
    tree.build(**env)
    assert tree.compiled() == []
    tree.write("csrc/cuda/core/launch.cuh")
    tree.build(**env)
    assert tree.compiled() == ["methods/one.cu"]


@pytest.mark.parametrize(
    "env",
    [{}, {"CUDA_HOME": "/none"}, {"EMBSTORE_CUDA": "off", "CUDA": "1"}, {"EMBSTORE_SANITIZE": "address", "CUDA": "1"}],
    ids=repr,
)
def test_cuda_is_left_out(tree: Tree, env: dict[str, str]) -> None:
    nvcc = tree.with_cuda()
    done = tree.build(**env, **({"CUDACXX": str(nvcc)} if "CUDA" in env else {}))
    assert done.returncode == 0, done.stderr
    assert set(tree.links()) == {"_native"}


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"EMBSTORE_CUDA": "on"},
            "EMBSTORE_CUDA needs nvcc, found none in CUDA_HOME and on PATH; install CUDA 12 or later or set",
        ),
        ({"CUDACXX": "/none/nvcc"}, "found none at /none/nvcc, where CUDACXX says"),
        ({"EMBSTORE_CUDA": "yes"}, "EMBSTORE_CUDA must be auto, on or off, found 'yes'"),
        ({"EMBSTORE_CUDA": "on", "EMBSTORE_SANITIZE": "address"}, "does not go with EMBSTORE_SANITIZE, found both"),
    ],
)
def test_cuda_that_cannot_be_built_is_refused(tree: Tree, env: dict[str, str], sentence: str) -> None:
    tree.with_cuda()
    done = tree.build(**env)
    assert done.returncode != 0
    assert sentence in done.stderr


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
