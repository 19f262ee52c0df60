"""Writing the keys of a table: spilled as they come, then one Arrow file and the index over it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
import numpy.typing as npt

from ... import native
from ...errors import ConfigError, SourceError
from ..staging import storing
from . import batch, store
from .layout import DIRECTORY, INDEX_FILE, KEYS_FILE, KINDS, MAX_COUNT, KeyType, OnDuplicate


class KeysWriter:
    """Writes the keys of a table in row order, in memory that does not grow with their number.

    Parameters
    ----------
    directory : the table being written; the files go to its folder ``keys``.
    key_type : "string" or "int64".
    count : keys that will be appended in all.
    on_duplicate : "raise" (`DuplicateKeyError` from `finish`) or "last" (the last row of a key wins).
    destination : where the table will be published, for messages.

    `finish` gives the metadata that `Keys.open` needs; it does not fsync, publishing does. Used as a context
    manager it removes its files when left by an exception.

    Raises
    ------
    SourceError : a key that is not text or not a 64-bit integer, or another number of keys than `count`.
    DuplicateKeyError : a key at two rows, with ``on_duplicate="raise"``.
    StorageError : the disk is full, or does not let write.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        key_type: KeyType,
        count: int,
        on_duplicate: OnDuplicate = "raise",
        *,
        destination: str | None = None,
    ) -> None:
        if key_type not in KINDS:
            raise ConfigError(f'key_type must be "string" or "int64", found {key_type!r}; pass one of the two')
        if on_duplicate not in ("raise", "last"):
            raise ConfigError(f'on_duplicate must be "raise" or "last", found {on_duplicate!r}; pass one of the two')
        if not 0 <= count <= MAX_COUNT:
            raise ConfigError(f"count must be between 0 and 2**40 - 1, found {count}; split larger tables")
        native.require("writing keys")
        self._destination = destination or os.fspath(directory)
        self.directory = Path(directory) / DIRECTORY
        self.key_type = key_type
        self.count = int(count)
        self.on_duplicate = on_duplicate
        self._rows = 0
        self._size = 0
        self._values_path = self.directory / ".values.spill"
        self._offsets_path = self.directory / ".offsets.spill"
        self._values: BinaryIO | None = None
        self._offsets: BinaryIO | None = None
        with storing(self._destination):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._values = open(self._values_path, "wb")  # noqa: SIM115
            if key_type == "string":
                self._offsets = open(self._offsets_path, "wb")  # noqa: SIM115
                self._offsets.write(bytes(8))

    def append(self, keys: Sequence[str] | npt.NDArray[Any] | Any) -> None:
        """Add the keys of the next rows: a list of str (or int), a numpy array, or an Arrow array."""
        if self._values is None:
            raise ConfigError("keys cannot be appended after finish or abort; make a new KeysWriter")
        if self.key_type == "string":
            offsets, values = batch.texts(keys, self._rows)
            n = len(offsets) - 1
            self._room_for(n)
            begin, end = int(offsets[0]), int(offsets[-1])
            with storing(self._destination):
                cast(BinaryIO, self._offsets).write((offsets[1:] + (self._size - begin)).astype("<i8", copy=False).data)
                self._values.write(values[begin:end].data)
            self._size += end - begin
        else:
            ints = batch.integers(keys, self._rows)
            n = len(ints)
            self._room_for(n)
            with storing(self._destination):
                self._values.write(np.ascontiguousarray(ints, "<i8").data)
            self._size += 8 * n
        self._rows += n

    def finish(self) -> dict[str, Any]:
        """Write both files and return their metadata (JSON-able)."""
        if self._values is None:
            raise ConfigError("keys were finished or aborted already; make a new KeysWriter")
        if self._rows != self.count:
            raise SourceError(
                f"the table announced {self.count} keys, found {self._rows} when the source ended; check that the "
                "source is whole"
            )
        try:
            with storing(self._destination):
                self._close()
                offsets, values = store.write_arrow(
                    self.directory, self.key_type, self.count, self._offsets_path, self._values_path
                )
                self._remove_spills()
                meta = store.write_index(self.directory, self.key_type, self.count, self.on_duplicate, offsets, values)
        except BaseException:
            self.abort()
            raise
        return meta

    def abort(self) -> None:
        """Remove every file of this writer, finished ones too."""
        with suppress(OSError):
            self._close()
        for path in (self._values_path, self._offsets_path, self.directory / KEYS_FILE, self.directory / INDEX_FILE):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is not None:
            self.abort()

    def _close(self) -> None:
        files, self._values, self._offsets = (self._values, self._offsets), None, None
        for file in files:
            if file is not None:
                file.close()

    def _remove_spills(self) -> None:
        self._values_path.unlink(missing_ok=True)
        self._offsets_path.unlink(missing_ok=True)

    def _room_for(self, n: int) -> None:
        if self._rows + n > self.count:
            raise SourceError(
                f"the table announced {self.count} keys, found at least {self._rows + n}; check that the source did "
                "not change while it was read"
            )
