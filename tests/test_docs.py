"""The documents say what the code does, and link to what is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def generate(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "docs/generate.py", *args],
        cwd=root, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_is_written_from_the_registry_is_current() -> None:
    done = generate(ROOT, "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "old", "new"), [("README.md", "| 132 |", "| 131 |"), ("docs/methods.md", "132", "131")]
)
def test_a_stale_page_is_noticed_and_mended(tmp_path: Path, name: str, old: str, new: str) -> None:
    (tmp_path / "docs").mkdir()
    for file in ("README.md", "docs/generate.py", "docs/methods.md"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    whole = (tmp_path / name).read_text(encoding="utf-8")
    assert old in whole
    (tmp_path / name).write_text(whole.replace(old, new), encoding="utf-8")
    assert f"{Path(name).name} is not what the registry says; run `make docs`" in generate(tmp_path, "--check").stderr
    assert generate(tmp_path).returncode == 0
    assert (tmp_path / name).read_text(encoding="utf-8") == whole
    assert generate(tmp_path, "--check").returncode == 0


def test_lost_markers_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "generate.py").write_bytes((ROOT / "docs" / "generate.py").read_bytes())
    (tmp_path / "README.md").write_text("# mine\n", encoding="utf-8")
    assert "README.md must have the lines" in generate(tmp_path).stderr
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# mine\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if "://" not in t]
    assert [t for t in local if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", ["search.md", "faiss.md", "choose.md", "modules.md", "recommender.md"])
def test_examples_run(page: str, tmp_path: Path) -> None:
    """In order, as one program, and the commands after them."""
    if page == "faiss.md":
        pytest.importorskip("faiss")
    if page == "choose.md":
        pytest.importorskip("matplotlib")
    if page in ("modules.md", "recommender.md"):
        pytest.importorskip("torch")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    for command in commands.splitlines():
        words = shlex.split(command)
        assert words[0] == "embstore"
        subprocess.run([sys.executable, "-m", "embstore.cli", *words[1:]], cwd=tmp_path, env=env, check=True)
