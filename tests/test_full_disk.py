"""A disk that is really full, or a limit on file sizes: one sentence that names the path, and nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore.errors import StorageError

DIM = 64
SIZE = 4 << 20


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)


def keys(count: int) -> list[str]:
    return [f"{i:05}" for i in range(count)]


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of `SIZE` bytes."""
    path = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def check(error: StorageError, code: int, path: Path, cure: str) -> None:
    assert error.errno == code
    assert str(error) == (
        f"table {str(path)!r} could not be written ({os.strerror(code)}), so nothing was changed there; "
        f"{cure} and run it again"
    )


COUNT = 6000
SHARD, KEYS, INDEX = 256 * COUNT, 13 * COUNT, 8 * 16384


# The end is met at once, in the shard, in the Arrow file of the keys, and in their index.
@pytest.mark.parametrize("room", [0, SHARD // 2, SHARD - 4096, SHARD + KEYS * 3 // 2, SHARD + KEYS + INDEX - 20_000])
def test_a_full_disk(disk: Path, room: int) -> None:
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    with pytest.raises(StorageError) as caught:
        embstore.compress(rows(COUNT), disk / "t", "float32", keys=keys(COUNT))
    check(caught.value, errno.ENOSPC, disk / "t", "free some space")
    assert os.listdir(disk) == ["filler"]


def test_a_full_disk_leaves_the_old_table(disk: Path) -> None:
    old = embstore.compress(rows(3000), disk / "t", "float32", keys=keys(3000))
    with pytest.raises(StorageError) as caught:
        embstore.compress(rows(14_000), disk / "t", "float32", keys=keys(14_000), overwrite=True)
    check(caught.value, errno.ENOSPC, disk / "t", "free some space")
    assert os.listdir(disk) == ["t"]
    again = embstore.open(disk / "t")
    assert again.num_embeddings == 3000 and again.verify() == []
    np.testing.assert_array_equal(again.lookup(keys(3000)), old.lookup(np.arange(3000)))


LIMITED = """
import resource, sys
from test_full_disk import keys, rows
import embstore

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
count, path = int(sys.argv[1]), sys.argv[2]
try:
    embstore.compress(rows(count), path, sys.argv[3], keys=keys(count))
except embstore.errors.StorageError as error:
    print(error.errno, error, sep="\\n", end="")
"""


# The shard meets the limit in the first, the key files in the second.
@pytest.mark.parametrize(("count", "method"), [(10_000, "float32"), (92_000, "int2")])
def test_a_limit_on_file_sizes(tmp_path: Path, count: int, method: str) -> None:
    pytest.importorskip("resource")
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    args = [sys.executable, "-c", LIMITED, str(count), str(tmp_path / "t"), method]
    done = subprocess.run(args, capture_output=True, text=True, env=env)
    assert done.stderr == ""
    code, _, sentence = done.stdout.partition("\n")
    check(
        StorageError(int(code), sentence),
        errno.EFBIG,
        tmp_path / "t",
        "raise the limit on the size of files (ulimit -f)",
    )
    assert os.listdir(tmp_path) == []
