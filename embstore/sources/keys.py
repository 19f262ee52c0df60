"""Keys given beside a source: a list, an integer array, an Arrow array or a text file."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import SourceError, SourceNotFoundError, SourceTypeError
from .base import KeyType

KeyList: TypeAlias = list[str] | npt.NDArray[Any]
Take: TypeAlias = Callable[[int], KeyList]

MAX_LINE = 1 << 26


class Keys(Protocol):
    """Keys in row order; `cursor(start)` returns a function that gives the next n of them."""

    key_type: KeyType
    count: int

    @property
    def fingerprint(self) -> str: ...
    def cursor(self, start: int) -> Take: ...


class HeldKeys:
    """Keys in memory: a list of str, an int64 array or an Arrow array."""

    def __init__(self, key_type: KeyType, keys: Any) -> None:
        self.key_type: KeyType = key_type
        self.count = len(keys)
        self._keys = keys

    @property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(self.key_type.encode(), digest_size=16)
        take = self.cursor(0)
        for start in range(0, self.count, 4096):
            part = take(min(4096, self.count - start))
            text = "\n".join(f"{len(k)}:{k}" for k in part) if isinstance(part, list) else part.tobytes()
            digest.update(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        return digest.hexdigest()

    def cursor(self, start: int) -> Take:
        at = start

        def take(n: int) -> KeyList:
            nonlocal at
            part = self._keys[at : at + n]
            at += n
            if isinstance(part, list | np.ndarray):
                return part
            if self.key_type == "int64":
                return np.asarray(part.to_numpy(), dtype=np.int64)
            texts: list[str] = part.to_pylist()
            return texts

        return take


class FileKeys:
    """One key a line of a UTF-8 text file, plain or gzip; read as a stream, counted when opened."""

    key_type: KeyType = "string"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            raise SourceNotFoundError(f"key file {self._path.name!r} does not exist; check the path") from None
        self.fingerprint = f"{stat.st_size}-{stat.st_mtime_ns}"
        self.count = sum(len(block) for block in line_blocks(self._path))

    def cursor(self, start: int) -> Take:
        blocks = line_blocks(self._path)
        held: list[bytes] = []
        at = start
        skip = start
        while skip > len(held):
            skip -= len(held)
            held = next(blocks, [])
            if not held:
                break
        held = held[skip:]

        def take(n: int) -> list[str]:
            nonlocal held, at
            while len(held) < n:
                more = next(blocks, None)
                if more is None:
                    raise SourceError(f"key file {self._path.name!r} became shorter while it was read; start again")
                held = held + more
            part, held = held[:n], held[n:]
            try:
                keys = [line.decode() for line in part]
            except UnicodeDecodeError:
                row = next(i for i, line in enumerate(part) if not is_utf8(line))
                raise not_utf8(self._path.name, at + row, part[row]) from None
            at += n
            return keys

        return take


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def not_utf8(name: str, row: int, key: bytes) -> SourceError:
    return SourceError(
        f"source {name!r} must have UTF-8 keys, found {key[:40]!r} in row {row}; fix or re-encode that key"
    )


def line_blocks(path: Path, *, skip: int = 0) -> Iterator[list[bytes]]:
    """Lines of a plain or gzip file, some MB at a time, without their line ends; a last empty line is none."""
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
        stream.seek(skip)
        rest = b""
        while True:
            try:
                block = stream.read(1 << 21)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise SourceError(
                    f"source {path.name!r} must be whole gzip data, found it damaged ({error}); get it again"
                ) from None
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if not block:
                lines = [rest] if rest else []
            if len(rest) > MAX_LINE:
                raise SourceError(f"source {path.name!r} must have lines below 64 MiB, found a longer one; is it text?")
            if lines:
                yield [line.removesuffix(b"\r") for line in lines]
            if not block:
                return


def as_keys(keys: Any) -> Keys:
    """`Keys` of what a caller may give; `SourceTypeError` for anything else."""
    if isinstance(keys, HeldKeys | FileKeys):
        return keys
    if isinstance(keys, str | os.PathLike):
        return FileKeys(keys)
    if isinstance(keys, np.ndarray):
        return _from_numpy(keys)
    if isinstance(keys, list | tuple):
        if all(type(k) is str for k in keys):
            return HeldKeys("string", list(keys))
        if all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in keys):
            return _from_numpy(np.array(keys))
        odd = next(k for k in keys if not isinstance(k, str if isinstance(keys[0], str) else int))
        raise SourceTypeError(f"keys must be all str or all int, found {type(odd).__name__}; convert them first")
    if type(keys).__module__.startswith("pyarrow"):
        return from_arrow(keys)
    raise SourceTypeError(
        f"keys must be a list of str, integers, an Arrow array or a text file, found {type(keys).__name__}"
    )


def _from_numpy(keys: npt.NDArray[Any]) -> Keys:
    if keys.ndim == 1 and keys.dtype.kind in "iu":
        if keys.dtype.kind == "u" and keys.size and int(keys.max()) > 2**63 - 1:
            raise SourceError(f"integer keys must be below 2**63, found {int(keys.max())}; give such keys as strings")
        return HeldKeys("int64", keys.astype(np.int64, copy=False))
    if keys.ndim == 1 and keys.dtype.kind in "UO" and all(isinstance(k, str) for k in keys):
        return HeldKeys("string", [str(k) for k in keys])
    raise SourceTypeError(f"keys must be a 1-D array of integers or strings, found {keys.ndim}-D {keys.dtype}")


def from_arrow(keys: Any, what: str = "keys") -> Keys:
    """`Keys` of an Arrow array or chunked array of strings or integers without nulls."""
    import pyarrow as pa

    if isinstance(keys, pa.ChunkedArray):
        keys = keys.chunk(0) if keys.num_chunks == 1 else pa.chunked_array(keys.chunks, keys.type)
    if not isinstance(keys, pa.Array | pa.ChunkedArray):
        raise SourceTypeError(f"{what} must be an Arrow array, found {type(keys).__name__}")
    if pa.types.is_dictionary(keys.type):
        keys = keys.cast(keys.type.value_type)
    if keys.null_count:
        row = next(i for i, k in enumerate(keys) if not k.is_valid)
        raise SourceError(f"{what} must not be null, found null in row {row}; fill or drop that row")
    if pa.types.is_integer(keys.type):
        return _from_numpy(keys.to_numpy(zero_copy_only=False) if isinstance(keys, pa.Array) else keys.to_numpy())
    if pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type) or pa.types.is_string_view(keys.type):
        return HeldKeys("string", keys)
    raise SourceTypeError(f"{what} must be strings or integers, found {keys.type}; cast the column first")
