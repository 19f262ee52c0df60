"""The import rules of docs/design.md §2, held against the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "embstore"

FOUNDATION = {"errors", "native", "arrays", "method", "encoding", "transform", "registry", "pipeline"}
ONLINE = FOUNDATION | {"kernels", "format", "sources", "oov", "threads"}

# Room -> the rooms it may import. A new room needs a line here, and a reason in docs/design.md.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "native": {"errors"},
    "threads": {"errors", "native"},
    "arrays": {"errors"},
    "products": set(),
    "method": {"errors", "arrays"},
    "transform": {"errors", "arrays", "method"},
    "registry": {"errors", "arrays", "method", "transform"},
    "pipeline": {"errors", "arrays", "method", "transform", "registry"},
    "optional": {"errors"},
    "kmeans": {"optional", "threads"},
    "sampling": FOUNDATION | {"sources"},
    "budgets": FOUNDATION,
    "_pump": set(),
    "encoding": {"errors", "arrays", "method", "native", "threads"},
    "methods": {"errors", "arrays", "method", "encoding", "kmeans", "optional", "products"},
    "transforms": {"errors", "arrays", "method", "transform", "kmeans", "products"},
    "arguments": {"errors", "method"},
    "format": {"errors", "arrays", "native"},
    "kernels": {"errors", "arrays", "method", "encoding", "transform", "registry", "pipeline", "native", "threads"},
    "sources": {"errors", "arrays", "method"},
    "oov": {"errors"},
    # Table.lookup of keys is a function of that room.
    "table_keys": {"errors", "arrays", "method", "arguments", "kernels", "oov", "table"},
    # Table.search and its kin are functions of the search room.
    "table": ONLINE | {"search", "arguments", "cuda", "table_keys"},
    # Table.to is a function of the cuda room.
    # Rows that lie on a device are compressed there.
    "cuda": ONLINE | {"table", "arguments", "search", "budgets", "sampling", "compression"},
    "table_set": ONLINE | {"table"},
    "compression": ONLINE | {"transforms", "table", "sampling", "budgets", "_pump"},
    "search": ONLINE | {"table", "optional", "arguments"},
    "report": ONLINE | {"table"},
    "export": ONLINE | {"table", "exchange"},
    # Table and index in one hand: it knows layouts of methods, and stores what it reads.
    "exchange": ONLINE | {"methods", "transforms", "kmeans", "optional", "table", "search", "compression"},
    "compare": ONLINE | {"table", "compression", "sampling"},
    "advice": ONLINE | {"table", "compression", "compare", "sampling", "budgets"},
    "nn": {"errors", "arrays", "method", "methods", "registry", "pipeline", "table", "table_set", "compression"}
    # Rows and gradients on a device.
    | {"budgets", "cuda"},
    "cli": ONLINE
    | {"transforms", "table", "table_set", "compression", "search", "report", "export", "compare", "exchange"}
    | {"advice"},
}

# Imported when first needed, so that `import embstore` and `embstore --help` do not pay for them.
HEAVY = {
    "cli": {"typer"},
    "nn": {"torch"},
}
HEAVY_MODULES = {
    "zarr", "pyarrow", "rich", "typer", "torch", "numba", "scipy", "h5py", "gguf", "safetensors", "google_crc32c",
    "faiss", "cupy",
}  # fmt: skip
TORCH_ROOMS = {"nn", "sources", "testing"}


@dataclass(frozen=True)
class Import:
    """One imported module, absolute; `top` when importing the importer imports it too."""

    module: str
    line: int
    top: bool


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every import of a module in `package`, those for type checkers left out."""

    def walk(node: ast.AST, top: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, top)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{prefix}.{alias.name}", node.lineno, top)
        else:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                top = False
            children = node.orelse if _type_checking(node) else ast.iter_child_nodes(node)  # type: ignore[attr-defined]
            for child in children:
                yield from walk(child, top)

    yield from walk(tree, True)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def faults(room: str, found: Iterator[Import]) -> Iterator[str]:
    """What the imports of a module in `room` break."""
    for each in found:
        first, _, rest = each.module.partition(".")
        if first == "embstore":
            target = rest.partition(".")[0]
            if target == "testing" and room != "testing":
                yield f"line {each.line}: nothing imports testing"
            elif target in MAY_IMPORT and target != room and room in MAY_IMPORT and target not in MAY_IMPORT[room]:
                yield f"line {each.line}: {room} must not import {target}"
        elif first == "torch" and room not in TORCH_ROOMS:
            yield f"line {each.line}: only {', '.join(sorted(TORCH_ROOMS))} may import torch"
        elif each.top and first in HEAVY_MODULES - HEAVY.get(room, set()):
            yield f"line {each.line}: {first} must be imported where it is used, not at the top"


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_design(path: Path) -> None:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert list(faults(room_of(path), imports(ast.parse(path.read_text()), package))) == []


def test_every_room_has_a_rule() -> None:
    rooms = {room_of(p) for p in MODULES} - {"__init__", "testing"}
    assert rooms <= set(MAY_IMPORT), "add the new room to MAY_IMPORT"


@pytest.mark.parametrize(
    ("room", "package", "code"),
    [
        ("methods", "embstore.methods", "from ..format import layout"),
        ("methods", "embstore.methods", "from .. import kernels"),
        ("methods", "embstore.methods", "def f():\n    import embstore.kernels"),
        ("methods", "embstore.methods", "def f():\n    import torch"),
        ("errors", "embstore", "from .arrays import ArraySpec"),
        ("format", "embstore.format", "from ..registry import get"),
        ("table", "embstore", "from .compression import compress"),
        ("compression", "embstore", "from .testing import laws"),
        ("table", "embstore", "import pyarrow as pa"),
        ("sources", "embstore.sources", "try:\n    import torch\nexcept ImportError:\n    pass"),
        ("cli", "embstore", "from rich.table import Table"),
    ],
)
def test_a_broken_rule_is_noticed(room: str, package: str, code: str) -> None:
    assert list(faults(room, imports(ast.parse(code), package)))


@pytest.mark.parametrize(
    ("room", "package", "code"),
    [
        ("methods", "embstore.methods", "from ..arrays import ArraySpec\nfrom ._bits import pack"),
        ("format", "embstore.format", "from .. import native"),
        ("sources", "embstore.sources", "def f():\n    import torch"),
        ("cli", "embstore", "import typer\nfrom .compression import compress"),
        ("oov", "embstore", "if TYPE_CHECKING:\n    from .sources.base import Subwords"),
    ],
)
def test_what_the_rules_allow_passes(room: str, package: str, code: str) -> None:
    assert list(faults(room, imports(ast.parse(code), package))) == []


def test_importing_embstore_imports_nothing_heavy() -> None:
    code = f"import embstore, sys; print(sorted(set(sys.modules) & {HEAVY_MODULES!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_only_the_bindings_include_the_binding_library() -> None:
    files = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".hpp", ".cu", ".cuh")]
    including = {p.name for p in files if re.search(r"#\s*include\s*[<\"](nanobind|Python\.h)", p.read_text())}
    assert files
    assert {name for name in including if not re.fullmatch(r"(cuda_)?bindings(_\w+)?\.cpp", name)} == set()


def test_kernels_know_neither_openmp_nor_libtorch() -> None:
    for path in (ROOT / "csrc").rglob("*.*"):
        assert not re.search(r"#\s*include\s*[<\"](omp\.h|torch/|ATen/|c10/)|#\s*pragma\s+omp", path.read_text()), path
