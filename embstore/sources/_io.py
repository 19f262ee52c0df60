"""What all readers share: bounded reads of a file, checked shapes, the choice of a tensor, float32."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import TableShape
from ..errors import MissingDependencyError, ShapeError, SourceError, SourceNotFoundError
from ..method import FloatRows

NUMBERS = frozenset("fiu")


class FileReader:
    """Positioned reads of one file.

    Reads go through `pread`, not through a map: a file that shrinks while it is read is then an error and
    not a SIGBUS, and resident memory stays at one chunk.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = self.path.name
        try:
            # Opening a pipe would wait for a writer.
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise SourceError(
                    f"source {self.name!r} must be a regular file, found a pipe or device; copy it to a file"
                )
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (closed by close())
        except FileNotFoundError:
            raise SourceNotFoundError(f"source {self.name!r} does not exist; check the path") from None
        except SourceError:
            raise
        except (OSError, ValueError) as error:
            raise SourceError(
                f"source {self.name!r} must be a readable file, found: {getattr(error, 'strerror', error)}"
            ) from None
        found = os.fstat(self._file.fileno())
        self.size = found.st_size
        self.fingerprint = f"{found.st_size}-{found.st_mtime_ns}"

    def read(self, offset: int, nbytes: int) -> bytes:
        """Exactly `nbytes` at `offset`; nothing is allocated before the file is known to have them."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise self.short(offset + nbytes)
        out = bytearray(nbytes)
        self._fill(offset, memoryview(out))
        return bytes(out)

    def head(self, nbytes: int) -> bytes:
        return self.read(0, min(nbytes, self.size))

    def into(self, offset: int, out: npt.NDArray[Any]) -> None:
        """Fill the C-contiguous array `out` with the bytes at `offset`."""
        if out.size:
            self._fill(offset, out.reshape(-1).view(np.uint8).data)

    def _fill(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                n = os.preadv(self._file.fileno(), [view[done : done + 2**30]], offset + done)
            except OSError as error:
                raise SourceError(f"source {self.name!r} cannot be read: {error.strerror}") from None
            if n == 0:
                raise self.short(offset + len(view))
            done += n

    def short(self, expected: int) -> SourceError:
        return SourceError(
            f"source {self.name!r} is truncated or damaged: its header needs at least {expected} bytes, "
            f"found {self.size}; get the file again"
        )

    def close(self) -> None:
        self._file.close()


class Cursor:
    """Reads forward through a header of a `FileReader`."""

    def __init__(self, reader: FileReader, offset: int = 0) -> None:
        self.reader = reader
        self.offset = offset

    def read(self, nbytes: int) -> bytes:
        data = self.reader.read(self.offset, nbytes)
        self.offset += nbytes
        return data


def bad(name: str, expected: str, found: object, cure: str) -> SourceError:
    """One sentence: the source, what was expected, what was found, the cure."""
    return SourceError(f"source {name!r} must have {expected}, found {found}; {cure}")


def table_shape(name: str, rows: int, dims: int) -> TableShape:
    """The shape, or `SourceError` when there is nothing to compress or the numbers are absurd."""
    if rows < 1 or dims < 1:
        raise SourceError(f"source {name!r} must have rows and dims, found {rows} x {dims}; check the file")
    try:
        return TableShape(rows, dims)
    except ShapeError as error:
        raise SourceError(f"source {name!r}: {error}") from None


def as_float32(array: npt.NDArray[Any]) -> FloatRows:
    """C-contiguous float32; values beyond float32 become inf, which compress reports with their row."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def bfloat16(raw: npt.NDArray[Any]) -> FloatRows:
    """float32 of bfloat16 bits held as little-endian uint16."""
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)


def check_dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Floats of 2 to 8 bytes and integers pass."""
    if dtype.kind not in NUMBERS or dtype.itemsize > 8 or dtype.subdtype is not None:
        raise bad(name, "float or integer values", f"dtype {dtype}", "convert the array to float32")
    return dtype


def pick(name: str, what: str, shapes: Mapping[str, Sequence[object]], wanted: str | None, ndim: int = 2) -> str:
    """The tensor called `wanted`, or the only one of `ndim` dimensions."""

    def listing(names: Sequence[str]) -> str:
        shown = ", ".join(f"{n!r} {'x'.join(map(str, shapes[n]))}" for n in names[:12])
        return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")

    if wanted is not None:
        if wanted not in shapes:
            raise SourceNotFoundError(
                f"source {name!r} has no {what} {wanted!r}, found {listing(list(shapes)) or 'none'}; give one of these"
            )
        if len(shapes[wanted]) != ndim:
            raise bad(name, f"a {ndim}-D {what} {wanted!r}", f"{len(shapes[wanted])}-D", "choose another by name")
        return wanted
    fitting = [n for n, shape in shapes.items() if len(shape) == ndim]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise bad(name, f"a {ndim}-D {what}", listing(list(shapes)) or "none", "check that it holds embeddings")
    raise bad(name, f"one 2-D {what}", f"{len(fitting)}: {listing(fitting)}", f'pass name="{fitting[0]}" for one')


def missing(package: str, extra: str) -> MissingDependencyError:
    return MissingDependencyError(
        f'this source needs {package}, which is not installed; pip install "embstore[{extra}]"'
    )
