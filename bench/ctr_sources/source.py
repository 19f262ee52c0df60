"""What a reader of click data gives, and how its files are found."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from embstore.errors import SourceError, SourceNotFoundError

from .coding import Keys

# Keys (n, fields), labels (n,) of 0 and 1, groups (n,): days, or numbers of files.
Chunk = tuple[Keys, npt.NDArray[np.uint8], npt.NDArray[np.int32]]
# parts: groups 0, 1 and 2 are train, validation and test; without a group 2 the later half of group 1 is test.
# last group: it is halved into validation and test. last seventh: that of the rows is. random: 8:1:1 by seed.
Split = Literal["parts", "last group", "last seventh", "random"]


@dataclass(frozen=True)
class Source:
    """Click data to be read once, in chunks.

    Attributes
    ----------
    name : in results.
    fields : names of the fields.
    chunks : makes the iterator of chunks; it raises `SourceError` naming line and column.
    split : see `Split`.
    about : what else the content depends on, JSON-able: files with their bytes, seeds, columns.
    sizes : of the fields, where keys are ids already; None to number the keys that occur.
    item : the field whose click rates are the popularity baseline; None for the one that orders validation data best.
    """

    name: str
    fields: tuple[str, ...]
    chunks: Callable[[], Iterator[Chunk]]
    split: Split
    about: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] | None = None
    item: int | None = None


def described(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Names, bytes and times of files: what a cache remembers of them."""
    return [{"name": f.name, "bytes": f.stat().st_size, "modified": int(f.stat().st_mtime)} for f in files]


def find(paths: Sequence[str], names: Sequence[str], what: str, where: str) -> list[Path]:
    """The files given, or the first of `names` in the folder given; `SourceNotFoundError` says where to get them."""
    if not paths:
        raise SourceNotFoundError(f"{what} needs --path, its file or the folder of it, found none; get it from {where}")
    missing = [p for p in paths if not Path(p).exists()]
    if missing:
        raise SourceNotFoundError(
            f"{what} must be at {missing[0]}, found nothing there; get it from {where} and give --path"
        )
    if len(paths) == 1 and Path(paths[0]).is_dir():
        found = [Path(paths[0]) / name for name in names if (Path(paths[0]) / name).exists()]
        if not found:
            raise SourceNotFoundError(
                f"{paths[0]} must hold one of {', '.join(names)}, found none; get {what} from {where}"
            )
        return found[:1]
    return [Path(p) for p in paths]


@contextlib.contextmanager
def text(path: Path) -> Iterator[IO[str]]:
    """A text file, or a gzipped one, to read; `SourceError` where the gzip stream is not whole."""
    try:
        # What is no UTF-8 is seen, and refused, as what it is not.
        kind: dict[str, Any] = {"mode": "rt", "encoding": "utf-8", "errors": "replace"}
        with gzip.open(path, **kind) if path.suffix == ".gz" else path.open(**kind) as lines:
            yield lines
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise SourceError(f"{path.name} must be gzipped text that is whole, found: {fault}; fetch it again") from fault


def of_files(files: Sequence[Path], what: str) -> Split:
    """One file is split at random; two are train and test, three train, validation and test."""
    if len(files) > 3:
        raise SourceError(f"{what} must be one, two or three files, found {len(files)}; join those of a part")
    return "random" if len(files) == 1 else "parts"
