"""The keys of an open table, both ways: row to key and key to row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast, overload

import numpy as np
import numpy.typing as npt

from ... import native
from ...errors import (
    CorruptionError,
    FormatVersionError,
    IdRangeError,
    IdTypeError,
    UnknownKeyError,
)
from . import arrow, files, metadata
from .files import shown
from .layout import DIRECTORY, HEADER, INDEX_FILE, KEYS_FILE, MAGIC, VERSION, Ids, KeyType, header
from .metadata import KeysMetadata

_ITER: Final = 4096


class Keys(Sequence[Any]):
    """The keys of an open table: a read-only sequence (row to key) and its inverse (key to row).

    ``keys[row]``, iteration and ``len`` go from rows to keys; ``key in keys``, `id` and `ids` from keys
    to rows. Nothing is read at opening but a header of 64 bytes. Safe to use from many threads.

    Attributes
    ----------
    type : "string" or "int64".
    unique : whether each key names one row; False where a duplicate's last row won.
    """

    type: KeyType
    unique: bool

    def __init__(self, directory: Path, meta: dict[str, Any], checked: KeysMetadata, index: Any) -> None:
        self._directory = directory
        self._meta = meta
        self._checked = checked
        self._index = index
        self._find = index.find
        self._count = checked.count
        self.type = checked.type
        self.unique = checked.shadowed == 0

    @classmethod
    def open(cls, directory: str | os.PathLike[str], meta: dict[str, Any]) -> Self:
        """Map the keys of the table in `directory`, described by `meta` (what `KeysWriter.finish` gave).

        Raises
        ------
        FormatError : `meta` is not what the format allows. FormatVersionError : written by a newer embstore.
        CorruptionError : a file is missing, truncated, or does not match `meta`.
        MissingDependencyError : the native extension is missing.
        """
        module = native.require("reading keys")
        checked = metadata.validate(meta)
        folder = Path(directory) / DIRECTORY
        label = files.label(directory)
        for name, size in ((KEYS_FILE, checked.file_bytes), (INDEX_FILE, checked.index_bytes)):
            try:
                found = os.stat(folder / name).st_size
            except OSError as error:
                raise CorruptionError(
                    f"{label}/{name} should be a file of {size} bytes, found none ({error.strerror}); {files.RESTORE}"
                ) from error
            if found != size:
                raise CorruptionError(f"{label}/{name} should have {size} bytes, found {found}; {files.RESTORE}")
        mapped = files.map_file(folder / INDEX_FILE, checked.index_bytes)
        start = mapped[: HEADER.size].tobytes()
        magic, version, *rest = HEADER.unpack(start)
        if magic == MAGIC and version > VERSION:
            raise FormatVersionError(
                f"{label}/{INDEX_FILE} should have version {VERSION}, found {version}; install a newer embstore"
            )
        if start != header(checked.type, checked.capacity, checked.count, checked.seed):
            raise CorruptionError(
                f"{label}/{INDEX_FILE} should start with the header of {checked.count} {checked.type} keys, found "
                f"{rest} under magic {magic!r}; {files.RESTORE}"
            )
        index = module.KeyIndex(
            mapped, files.map_file(folder / KEYS_FILE, checked.file_bytes), checked.type == "string", checked.count,
            checked.capacity, checked.seed, checked.offsets, checked.values, checked.values_size, label,
        )  # fmt: skip
        return cls(Path(directory), meta, checked, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return Keys.open, (self._directory, self._meta)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Keys: {self._count} of type {self.type}>"

    @overload
    def __getitem__(self, row: int) -> str | int: ...
    @overload
    def __getitem__(self, row: slice) -> list[str | int]: ...
    def __getitem__(self, row: int | slice) -> str | int | list[str | int]:
        """The key of a row, or the list of keys of a slice of rows."""
        if isinstance(row, slice):
            start, stop, step = row.indices(self._count)
            if step == 1:
                return list(self._index.range(start, max(start, stop)))
            return list(self._index.take(np.arange(start, stop, step, dtype=np.int64)))
        if isinstance(row, (bool, np.bool_)) or not hasattr(row, "__index__"):
            raise IdTypeError(f"a row id must be an integer, found {type(row).__name__} {shown(row)}; pass an int")
        row = row.__index__()
        if not 0 <= row < self._count:
            raise IdRangeError(
                f"row id must be from 0 to {self._count - 1} to have a key, found {row}; check the id against len(keys)"
            )
        return cast("str | int", self._index.key(row))

    def take(self, rows: npt.ArrayLike) -> list[str | int]:
        """The keys of several rows, in their order."""
        ids = np.asarray(rows)
        if ids.dtype.kind not in "iu" and ids.size:
            raise IdTypeError(f"row ids must be integers, found dtype {ids.dtype}; convert them first")
        bad = np.flatnonzero((ids < 0) | (ids >= self._count)) if ids.size else ids
        if bad.size:
            raise IdRangeError(
                f"row id must be from 0 to {self._count - 1} to have a key, found {ids.ravel()[bad[0]]}; "
                "check the ids against len(keys)"
            )
        return list(self._index.take(np.ascontiguousarray(ids.ravel(), np.int64)))

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._count, _ITER):
            yield from self._index.range(start, min(start + _ITER, self._count))

    def __contains__(self, key: object) -> bool:
        try:
            return bool(self._find(key) >= 0)
        except IdTypeError:
            return False

    def id(self, key: str | int) -> int:
        """The row of a key, or -1 when no row has it.

        Raises `IdTypeError` for a key of another type, `CorruptionError` for a damaged file.
        """
        return self._find(key)  # type: ignore[no-any-return]

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The row of a key, as `list.index` gives it: ValueError when absent."""
        row = self.id(value)
        if row < 0 or not start <= row < (self._count if stop is None else stop):
            raise ValueError(f"{shown(value)} is not in the keys")
        return row

    def count(self, value: Any) -> int:
        """How many keys equal `value`: 1 or 0 where keys are unique."""
        if self.unique:
            return int(value in self)
        return sum(1 for key in self if key == value)

    def ids(self, batch: Any, missing: int = -1) -> Ids:
        """The rows of many keys, `missing` where no row has the key.

        Parameters
        ----------
        batch : a list or tuple of keys, a numpy array of any shape, or an Arrow array (also chunked or
            dictionary-encoded). Strings for string keys, integers for int64 keys.
        missing : what to give for an unknown key.

        Returns
        -------
        int64 array of the shape of `batch`.

        Raises `IdTypeError` for keys of another type (None included), `CorruptionError` for a damaged file.
        """
        if isinstance(batch, (str, bytes)):
            raise IdTypeError(
                f"a batch of keys must be a list or an array, found {type(batch).__name__} {shown(batch)}; "
                "pass [key], or use id(key)"
            )
        if arrow.is_arrow(batch):
            batch = arrow.plain(batch)
            if batch.null_count:
                raise IdTypeError("keys must not be null, found an Arrow array with nulls; drop or fill them first")
            if arrow.is_text(batch):
                out = np.empty(len(batch), np.int64)
                self._index.find_packed(*arrow.packed(batch), missing, out)
                return out
            batch = batch.to_numpy(zero_copy_only=False)
        if hasattr(batch, "__array__") and not isinstance(batch, np.ndarray):
            batch = np.asarray(batch)
        if isinstance(batch, np.ndarray):
            if batch.dtype.kind in "iu" and self.type == "int64":
                return self._ids_of_ints(batch, missing)
            out = np.empty(batch.size, np.int64)
            self._index.find_list(batch.ravel().tolist(), missing, out)
            return out.reshape(batch.shape)
        if not isinstance(batch, (list, tuple)):
            batch = list(batch)
        out = np.empty(len(batch), np.int64)
        self._index.find_list(batch, missing, out)
        return out

    def _ids_of_ints(self, batch: npt.NDArray[Any], missing: int) -> Ids:
        flat = np.ascontiguousarray(batch.ravel(), np.int64)
        out = np.empty(flat.size, np.int64)
        self._index.find_int64(flat, missing, out)
        if batch.dtype.kind == "u" and batch.dtype.itemsize == 8:
            out[batch.ravel() > np.uint64(2**63 - 1)] = missing
        return out.reshape(batch.shape)

    def missing_error(self, key: object) -> UnknownKeyError:
        """The error to raise for a key that is not here; it names a near key where there is one, and the policies."""
        near = ""
        if isinstance(key, str) and self.type == "string":
            import unicodedata

            forms = (key.lower(), key.capitalize(), key.upper(), key.strip(), key.replace(" ", "_"),
                     unicodedata.normalize("NFC", key), unicodedata.normalize("NFD", key))  # fmt: skip
            near = next((f" ({form!r} is)" for form in forms if form != key and form in self), "")
            try:
                key.encode()
            except UnicodeEncodeError:
                near = " (it has a lone surrogate, which no key can have)"
        policies = 'a row id, "ngrams" or "subwords"' if self.type == "string" else "or a row id"
        return UnknownKeyError(
            f"key {shown(key)} is not among the table's {self._count} keys{near}; check it, or choose what unknown "
            f'keys give with oov="zeros", {policies}'
        )

    def verify(self) -> None:
        """Read everything: that each key is valid and finds its row, and that nothing else is in the index.

        The bytes of `keys.arrow` that only other Arrow readers need are held by the table's checksums instead.
        Raises `CorruptionError` naming the first fault.
        """
        label = files.label(self._directory)
        shadowed = 0
        for start in range(0, self._count, files.STEP):
            stop = min(start + files.STEP, self._count)
            shadowed += self._index.check(start, stop, self._checked.duplicates == "last")
        if shadowed != self._checked.shadowed:
            raise CorruptionError(
                f"{label} should hold {self._checked.shadowed} keys shadowed by a later row, found {shadowed}; "
                f"{files.RESTORE}"
            )
        used = self._index.occupied()
        if used != self._count - shadowed:
            raise CorruptionError(
                f"{label}/{INDEX_FILE} should use {self._count - shadowed} slots, found {used}; {files.RESTORE}"
            )
