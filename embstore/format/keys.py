"""Keys of a table: the strings or 64-bit integers themselves, and a hash index over them.

Two files, both mapped, so that opening costs the same for ten keys and for a billion.

``keys/keys.arrow`` is an Arrow IPC file: one record batch, one column ``key`` of type ``large_string``
or ``int64``, no nulls, no compression. Key ``i`` belongs to row ``i``.

``keys/index`` is little endian: a header of 64 bytes, then ``capacity`` slots of 8 bytes.

====== ====== =================================================================================
offset type   value
====== ====== =================================================================================
0      8 byte ``EMBKEYIX``
8      uint32 version, 1
12     uint32 kind: 0 strings, 1 int64
16     uint64 capacity: a power of two; ``count / capacity`` is at most 0.7
24     uint64 count: keys in ``keys.arrow``
32     uint64 seed of the hash
40     24 B   zero
====== ====== =================================================================================

A slot is 0 when empty, else ``fingerprint << 40 | row + 1``, the fingerprint being the high 24 bits of
the key's hash. Key ``k`` is looked for from slot ``hash % capacity`` onwards (wrapping round) until an
empty slot; where the fingerprint agrees, the key in ``keys.arrow`` decides.

All arithmetic is modulo 2**64. ``mix(h)`` is the finalizer of MurmurHash3::

    h ^= h >> 33; h *= 0xff51afd7ed558ccd; h ^= h >> 33; h *= 0xc4ceb9fe1a85ec53; h ^= h >> 33

- hash of a string: FNV-1a over its UTF-8 (``h = 0xcbf29ce484222325``; per byte ``h = (h ^ byte) * 0x100000001b3``),
  then ``mix(h ^ seed)``
- hash of an integer: ``mix(value as uint64 ^ seed)``

With ``duplicates: "last"`` in the metadata a key may stand at several rows; the index names the last of
them, and ``shadowed`` counts the others. With ``"raise"`` no key stands twice.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Self, cast, overload

import numpy as np
import numpy.typing as npt

from .. import native
from ..errors import (
    ConfigError,
    CorruptionError,
    DuplicateKeyError,
    FormatError,
    FormatVersionError,
    IdRangeError,
    IdTypeError,
    ShapeError,
    SourceError,
    StorageError,
    UnknownKeyError,
)

KeyType = Literal["string", "int64"]
OnDuplicate = Literal["raise", "last"]
Ids = npt.NDArray[np.int64]

DIRECTORY: Final = "keys"
KEYS_FILE: Final = "keys.arrow"
INDEX_FILE: Final = "index"

MAGIC: Final = b"EMBKEYIX"
VERSION: Final = 1
SEED: Final = 0x5EED
HEADER: Final = struct.Struct("<8sIIQQQ24x")
KINDS: Final = {"string": 0, "int64": 1}
MAX_COUNT: Final = 2**40 - 1

_STEP: Final = 1 << 20
_ITER: Final = 4096
_RESTORE: Final = "restore the files from a copy or compress the table again"


def capacity_for(count: int) -> int:
    """Slots for `count` keys: the smallest power of two, at least 16, that is at most 0.7 full."""
    capacity = 16
    while count * 10 > capacity * 7:
        capacity *= 2
    return capacity


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 80 else text[:77] + "..."


def _label(directory: str | os.PathLike[str]) -> str:
    return f"{os.path.basename(os.path.abspath(directory))}/{DIRECTORY}"


def _is_arrow(batch: object) -> bool:
    return type(batch).__module__.partition(".")[0] == "pyarrow" or hasattr(batch, "__arrow_c_array__")


def _arrow(batch: Any) -> Any:
    """One contiguous Arrow array of a string or integer type, without dictionary."""
    import pyarrow as pa

    if isinstance(batch, pa.Scalar):
        raise IdTypeError("a batch of keys must be an array or a list, found an Arrow scalar; pass [key]")
    if not isinstance(batch, (pa.Array, pa.ChunkedArray)):
        batch = pa.array(batch)
    if isinstance(batch, pa.ChunkedArray):
        batch = batch.combine_chunks()
        if isinstance(batch, pa.ChunkedArray):  # pyarrow before 17 keeps the wrapper
            batch = pa.concat_arrays(batch.chunks) if batch.num_chunks else pa.array([], batch.type)
    if isinstance(batch, pa.ExtensionArray):
        batch = batch.storage
    if pa.types.is_dictionary(batch.type):
        batch = batch.dictionary_decode()
    return batch


def _arrow_text(batch: Any) -> tuple[Ids, npt.NDArray[np.uint8]]:
    """Offsets (n + 1) and values of an Arrow string array without nulls."""
    import pyarrow as pa

    if batch.type != pa.large_string():
        batch = batch.cast(pa.large_string())
    n = len(batch)
    _, offsets, values = batch.buffers()
    if n == 0 or offsets is None:
        return np.zeros(n + 1, np.int64), np.empty(0, np.uint8)
    starts = np.frombuffer(offsets, np.int64)[batch.offset : batch.offset + n + 1]
    return starts, np.empty(0, np.uint8) if values is None else np.frombuffer(values, np.uint8)


def _is_arrow_text(batch: Any) -> bool:
    import pyarrow as pa

    view = getattr(pa.types, "is_string_view", lambda _: False)
    return bool(pa.types.is_string(batch.type) or pa.types.is_large_string(batch.type) or view(batch.type))


# -- writing ---------------------------------------------------------------------------------------


class KeysWriter:
    """Writes the keys of a table in row order, in memory that does not grow with their number.

    Parameters
    ----------
    directory : the table being written; the files go to its folder ``keys``.
    key_type : "string" or "int64".
    count : keys that will be appended in all.
    on_duplicate : "raise" (`DuplicateKeyError` from `finish`) or "last" (the last row of a key wins).

    `finish` gives the metadata that `Keys.open` needs; it does not fsync, publishing does. Used as a context
    manager it removes its files when left by an exception.

    Raises
    ------
    SourceError : a key that is not text or not a 64-bit integer, or another number of keys than `count`.
    DuplicateKeyError : a key at two rows, with ``on_duplicate="raise"``.
    StorageError : the disk is full, or does not let write.
    """

    def __init__(
        self, directory: str | os.PathLike[str], key_type: KeyType, count: int, on_duplicate: OnDuplicate = "raise"
    ) -> None:
        if key_type not in KINDS:
            raise ConfigError(f'key_type must be "string" or "int64", found {key_type!r}; pass one of the two')
        if on_duplicate not in ("raise", "last"):
            raise ConfigError(f'on_duplicate must be "raise" or "last", found {on_duplicate!r}; pass one of the two')
        if not 0 <= count <= MAX_COUNT:
            raise ConfigError(f"count must be between 0 and 2**40 - 1, found {count}; split larger tables")
        native.require("writing keys")
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
        with self._storing():
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
            offsets, values = self._texts(keys)
            n = len(offsets) - 1
            self._room_for(n)
            bad = native.require("writing keys").first_not_utf8(offsets, values)
            if bad >= 0:
                raise SourceError(f"key of row {self._rows + bad} must be UTF-8, found other bytes; decode it first")
            begin, end = int(offsets[0]), int(offsets[-1])
            with self._storing():
                cast(BinaryIO, self._offsets).write((offsets[1:] + (self._size - begin)).astype("<i8", copy=False).data)
                self._values.write(values[begin:end].data)
            self._size += end - begin
        else:
            ints = self._ints(keys)
            n = len(ints)
            self._room_for(n)
            with self._storing():
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
            with self._storing():
                self._close()
                offsets, values = self._write_arrow()
                self._remove_spills()
                meta = self._write_index(offsets, values)
        except BaseException:
            self.abort()
            raise
        return meta

    def abort(self) -> None:
        """Remove every file of this writer. Does nothing after a successful `finish` was kept."""
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

    def _storing(self) -> _Storing:
        return _Storing(self.directory)

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

    def _wrong(self, at: int, key: object) -> SourceError:
        expected, cure = (
            ("a string", "convert the keys to str") if self.key_type == "string" else
            ("an integer of 64 bits with sign", "use string keys, or view unsigned keys as int64")
        )  # fmt: skip
        return SourceError(
            f"key of row {self._rows + at} must be {expected}, found {type(key).__name__} {_shown(key)}; {cure}"
        )

    def _null(self, batch: Any) -> SourceError:
        at = int(np.flatnonzero(np.asarray(batch.is_null()))[0])
        return SourceError(f"key of row {self._rows + at} must not be null; give every row a key or drop the row")

    def _texts(self, keys: Any) -> tuple[Ids, npt.NDArray[np.uint8]]:
        import pyarrow as pa

        if _is_arrow(keys):
            batch = _arrow(keys)
            if not _is_arrow_text(batch):
                raise SourceError(f"keys must be strings, found an Arrow array of {batch.type}; convert the column")
            if batch.null_count:
                raise self._null(batch)
            return _arrow_text(batch)
        items = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
        if not set(map(type, items)) <= {str}:
            for at, key in enumerate(items):
                if not isinstance(key, str):
                    raise self._wrong(at, key)
            items = [str(key) for key in items]
        try:
            return _arrow_text(pa.array(items, pa.large_string()))
        except UnicodeEncodeError:
            for at, key in enumerate(items):
                try:
                    key.encode()
                except UnicodeEncodeError:
                    raise SourceError(
                        f"key of row {self._rows + at} must be Unicode text, found {_shown(key)} with a lone "
                        'surrogate; decode the source with errors="replace" or drop the row'
                    ) from None
            raise

    def _ints(self, keys: Any) -> npt.NDArray[Any]:
        import pyarrow as pa

        if _is_arrow(keys):
            batch = _arrow(keys)
            if not pa.types.is_integer(batch.type):
                raise SourceError(f"keys must be integers, found an Arrow array of {batch.type}; use string keys")
            if batch.null_count:
                raise self._null(batch)
            keys = batch.to_numpy(zero_copy_only=False)
        if not isinstance(keys, np.ndarray) or keys.dtype == object:
            items = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
            for at, key in enumerate(items):
                if isinstance(key, (bool, np.bool_)) or not isinstance(key, (int, np.integer)):
                    raise self._wrong(at, key)
                if not -(2**63) <= int(key) < 2**63:
                    raise self._wrong(at, key)
            return np.array(items, np.int64)
        if keys.ndim != 1:
            raise ShapeError(f"keys must have one dimension, found shape {keys.shape}; pass keys.ravel()")
        if keys.dtype.kind not in "iu":
            raise SourceError(f"keys must be integers, found dtype {keys.dtype}; use string keys")
        if keys.dtype.itemsize == 8 and keys.dtype.kind == "u":
            beyond = np.flatnonzero(keys > np.uint64(2**63 - 1))
            if beyond.size:
                raise self._wrong(int(beyond[0]), keys[beyond[0]])
        return keys

    def _write_arrow(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Write keys.arrow; where its offsets and its values lie, each as (offset, length) in bytes."""
        import pyarrow as pa

        def spilled(path: Path, size: int) -> Any:
            if size == 0:
                return pa.py_buffer(b"")
            with pa.memory_map(str(path)) as file:
                return file.read_buffer()

        values = spilled(self._values_path, self._size)
        if self.key_type == "string":
            offsets = spilled(self._offsets_path, 8 * (self.count + 1))
            column = pa.LargeStringArray.from_buffers(self.count, offsets, values, null_count=0)
        else:
            column = pa.Array.from_buffers(pa.int64(), self.count, [None, values], null_count=0)
        path = self.directory / KEYS_FILE
        schema = pa.schema([pa.field("key", column.type, nullable=False)])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([column], schema=schema))
        del column, values
        if self.count == 0:
            return (0, 0), (0, 0)
        with pa.memory_map(str(path)) as file:
            whole = file.read_buffer()
        with pa.ipc.open_file(pa.BufferReader(whole)) as reader:
            stored = reader.get_batch(0).column(0)
        places = [(0, 0) if b is None or not b.size else (b.address - whole.address, b.size) for b in stored.buffers()]
        return (places[1], places[2]) if self.key_type == "string" else ((0, 0), places[1])

    def _write_index(self, offsets: tuple[int, int], values: tuple[int, int]) -> dict[str, Any]:
        capacity = capacity_for(self.count)
        size = HEADER.size + 8 * capacity
        path = self.directory / INDEX_FILE
        with open(path, "wb") as file:
            # Reserved before it is mapped: a full disk is an error here, but would be a signal there.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for start in range(0, size, _STEP):
                    file.write(bytes(min(_STEP, size - start)))
        slots = np.memmap(path, np.uint8, "r+")
        slots[: HEADER.size] = np.frombuffer(
            HEADER.pack(MAGIC, VERSION, KINDS[self.key_type], capacity, self.count, SEED), np.uint8
        )
        keys_bytes = (self.directory / KEYS_FILE).stat().st_size
        shadowed = 0
        if self.count:
            index = native.require("writing keys").KeyIndex(
                slots, _map(self.directory / KEYS_FILE, keys_bytes), self.key_type == "string", self.count, capacity,
                SEED, offsets[0], values[0], values[1], f"{DIRECTORY}/ of {self.directory.parent.name}",
            )  # fmt: skip
            for start in range(0, self.count, _STEP):
                stop = min(start + _STEP, self.count)
                first, second, hidden = index.insert(slots, start, stop, self.on_duplicate == "last")
                if second:
                    raise DuplicateKeyError(
                        f"every key must name one row, found key {_shown(index.key(second))} at rows {first} and "
                        f'{second}; remove one, or pass on_duplicate="last" to let the last row win'
                    )
                shadowed += hidden
        slots.flush()
        return {
            "type": self.key_type,
            "count": self.count,
            "file": f"{DIRECTORY}/{KEYS_FILE}",
            "file_bytes": keys_bytes,
            "offsets": {"offset": offsets[0], "length": offsets[1]},
            "values": {"offset": values[0], "length": values[1]},
            "index": f"{DIRECTORY}/{INDEX_FILE}",
            "index_bytes": size,
            "capacity": capacity,
            "seed": SEED,
            "duplicates": self.on_duplicate,
            "shadowed": shadowed,
        }


class _Storing:
    """Turns the operating system's errors about writing into `StorageError`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, (StorageError, CorruptionError)):
            raise StorageError(
                error.errno or 5,
                f"the keys could not be written to {self.directory.parent.name}/{DIRECTORY} "
                f"({error.strerror or error}); free space or choose another destination",
            ) from error


# -- reading ---------------------------------------------------------------------------------------


def _map(path: Path, nbytes: int) -> npt.NDArray[np.uint8]:
    if nbytes == 0:
        return np.empty(0, np.uint8)
    map_file = getattr(native.require("reading keys"), "map_file", None)
    if map_file is not None:
        return cast("npt.NDArray[np.uint8]", map_file(str(path), nbytes))
    return np.memmap(path, np.uint8, "r", shape=(nbytes,))


def _number(meta: dict[str, Any], *names: str, most: int = 2**63 - 1) -> int:
    value: Any = meta
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if type(value) is not int or not 0 <= value <= most:
        raise FormatError(
            f"keys.{'.'.join(names)} in the metadata must be an integer from 0 to {most}, found {_shown(value)}; "
            "restore the metadata from a copy or compress the table again"
        )
    return value


def _choice(meta: dict[str, Any], name: str, *choices: str) -> str:
    value = meta.get(name)
    if not isinstance(value, str) or value not in choices:
        raise FormatError(
            f"keys.{name} in the metadata must be {' or '.join(map(repr, choices))}, found {_shown(value)}; "
            "restore the metadata from a copy or compress the table again"
        )
    return value


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

    def __init__(self, directory: Path, meta: dict[str, Any], index: Any) -> None:
        self._directory = directory
        self._meta = meta
        self._index = index
        self._find = index.find
        self._count = int(meta["count"])
        self.type = meta["type"]
        self.unique = meta["shadowed"] == 0

    @classmethod
    def open(cls, directory: str | os.PathLike[str], meta: dict[str, Any]) -> Self:
        """Map the keys of the table in `directory`, described by `meta` (what `KeysWriter.finish` gave).

        Raises
        ------
        FormatError : `meta` is not what the format allows. FormatVersionError : written by a newer embstore.
        CorruptionError : a file is missing, truncated, or does not match `meta`.
        MissingDependencyError : the native extension is missing.
        """
        if not isinstance(meta, dict):
            raise FormatError(
                f"keys in the metadata must be an object, found {type(meta).__name__}; restore the metadata from a copy"
            )
        module = native.require("reading keys")
        key_type = _choice(meta, "type", "string", "int64")
        _choice(meta, "duplicates", "raise", "last")
        _choice(meta, "file", f"{DIRECTORY}/{KEYS_FILE}")
        _choice(meta, "index", f"{DIRECTORY}/{INDEX_FILE}")
        count = _number(meta, "count", most=MAX_COUNT)
        file_bytes, index_bytes = _number(meta, "file_bytes"), _number(meta, "index_bytes")
        capacity, seed = _number(meta, "capacity", most=2**41), _number(meta, "seed")
        shadowed = _number(meta, "shadowed")
        offsets, offsets_size = _number(meta, "offsets", "offset"), _number(meta, "offsets", "length")
        values, values_size = _number(meta, "values", "offset"), _number(meta, "values", "length")

        def held(good: bool, what: str, expected: str, found: object) -> None:
            if not good:
                raise FormatError(
                    f"{what} in the metadata must be {expected}, found {found}; restore the metadata from a copy or "
                    "compress the table again"
                )

        held(capacity == capacity_for(count), "keys.capacity", f"{capacity_for(count)} for {count} keys", capacity)
        held(
            index_bytes == HEADER.size + 8 * capacity, "keys.index_bytes", str(HEADER.size + 8 * capacity), index_bytes
        )
        limit = 0 if meta["duplicates"] == "raise" else max(count - 1, 0)
        held(shadowed <= limit, "keys.shadowed", f"at most {limit}", shadowed)
        if count:
            if key_type == "string":
                held(offsets_size == 8 * (count + 1), "keys.offsets.length", str(8 * (count + 1)), offsets_size)
                held(offsets % 8 == 0, "keys.offsets.offset", "a multiple of 8", offsets)
                held(offsets + offsets_size <= file_bytes, "keys.offsets", f"inside {file_bytes} bytes", offsets)
            else:
                held(values_size == 8 * count, "keys.values.length", str(8 * count), values_size)
                held(values % 8 == 0, "keys.values.offset", "a multiple of 8", values)
            held(values + values_size <= file_bytes, "keys.values", f"inside {file_bytes} bytes", values)

        folder = Path(directory) / DIRECTORY
        label = _label(directory)
        for name, size in ((KEYS_FILE, file_bytes), (INDEX_FILE, index_bytes)):
            try:
                found = os.stat(folder / name).st_size
            except OSError as error:
                raise CorruptionError(
                    f"{label}/{name} should be a file of {size} bytes, found none ({error.strerror}); {_RESTORE}"
                ) from error
            if found != size:
                raise CorruptionError(f"{label}/{name} should have {size} bytes, found {found}; {_RESTORE}")
        mapped = _map(folder / INDEX_FILE, index_bytes)
        header = mapped[: HEADER.size].tobytes()
        magic, version, *rest = HEADER.unpack(header)
        if magic == MAGIC and version > VERSION:
            raise FormatVersionError(
                f"{label}/{INDEX_FILE} should have version {VERSION}, found {version}; install a newer embstore"
            )
        if header != HEADER.pack(MAGIC, VERSION, KINDS[key_type], capacity, count, seed):
            raise CorruptionError(
                f"{label}/{INDEX_FILE} should start with the header of {count} {key_type} keys, found {rest} under "
                f"magic {magic!r}; {_RESTORE}"
            )
        index = module.KeyIndex(
            mapped, _map(folder / KEYS_FILE, file_bytes), key_type == "string", count, capacity, seed, offsets,
            values, values_size, label,
        )  # fmt: skip
        return cls(Path(directory), meta, index)

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
            raise IdTypeError(f"a row id must be an integer, found {type(row).__name__} {_shown(row)}; pass an int")
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
            raise ValueError(f"{_shown(value)} is not in the keys")
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
                f"a batch of keys must be a list or an array, found {type(batch).__name__} {_shown(batch)}; "
                "pass [key], or use id(key)"
            )
        if _is_arrow(batch):
            batch = _arrow(batch)
            if batch.null_count:
                raise IdTypeError("keys must not be null, found an Arrow array with nulls; drop or fill them first")
            if _is_arrow_text(batch):
                out = np.empty(len(batch), np.int64)
                self._index.find_packed(*_arrow_text(batch), missing, out)
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
            f"key {_shown(key)} is not among the table's {self._count} keys{near}; check it, or choose what unknown "
            f'keys give with oov="zeros", {policies}'
        )

    def verify(self) -> None:
        """Read everything: that each key is valid and finds its row, and that nothing else is in the index.

        The bytes of `keys.arrow` that only other Arrow readers need are held by the table's checksums instead.
        Raises `CorruptionError` naming the first fault.
        """
        label = _label(self._directory)
        shadowed = 0
        for start in range(0, self._count, _STEP):
            stop = min(start + _STEP, self._count)
            shadowed += self._index.check(start, stop, self._meta["duplicates"] == "last")
        if shadowed != self._meta["shadowed"]:
            raise CorruptionError(
                f"{label} should hold {self._meta['shadowed']} keys shadowed by a later row, found {shadowed}; "
                f"{_RESTORE}"
            )
        used = self._index.occupied()
        if used != self._count - shadowed:
            raise CorruptionError(
                f"{label}/{INDEX_FILE} should use {self._count - shadowed} slots, found {used}; {_RESTORE}"
            )
