"""The two files of a table's keys, written from buffers that lie on disk already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ... import native
from ...errors import DuplicateKeyError
from .files import STEP, map_file, shown
from .layout import DIRECTORY, HEADER, INDEX_FILE, KEYS_FILE, SEED, KeyType, OnDuplicate, capacity_for, header

# Where a buffer lies in keys.arrow: offset and length in bytes.
Place = tuple[int, int]


def write_arrow(folder: Path, key_type: KeyType, count: int, offsets: Path, values: Path) -> tuple[Place, Place]:
    """Write keys.arrow from files of its buffers (`offsets` for strings only); where it holds the two."""
    import pyarrow as pa

    def spilled(path: Path) -> Any:
        if path.stat().st_size == 0:
            return pa.py_buffer(b"")
        with pa.memory_map(str(path)) as file:
            return file.read_buffer()

    if key_type == "string":
        column = pa.LargeStringArray.from_buffers(count, spilled(offsets), spilled(values), null_count=0)
    else:
        column = pa.Array.from_buffers(pa.int64(), count, [None, spilled(values)], null_count=0)
    path = folder / KEYS_FILE
    schema = pa.schema([pa.field("key", column.type, nullable=False)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([column], schema=schema))
    del column
    if count == 0:
        return (0, 0), (0, 0)
    with pa.memory_map(str(path)) as file:
        whole = file.read_buffer()
    with pa.ipc.open_file(pa.BufferReader(whole)) as reader:
        stored = reader.get_batch(0).column(0)
    places = [(0, 0) if b is None or not b.size else (b.address - whole.address, b.size) for b in stored.buffers()]
    return (places[1], places[2]) if key_type == "string" else ((0, 0), places[1])


def write_index(
    folder: Path, key_type: KeyType, count: int, on_duplicate: OnDuplicate, offsets: Place, values: Place
) -> dict[str, Any]:
    """Write the index over keys.arrow; the metadata of both files. `DuplicateKeyError` names two rows of one key."""
    capacity = capacity_for(count)
    size = HEADER.size + 8 * capacity
    path = folder / INDEX_FILE
    with open(path, "wb") as file:
        # Reserved before it is mapped: a full disk is an error here, but would be a signal there.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, STEP):
                file.write(bytes(min(STEP, size - start)))
    slots = np.memmap(path, np.uint8, "r+")
    slots[: HEADER.size] = np.frombuffer(header(key_type, capacity, count, SEED), np.uint8)
    keys_bytes = (folder / KEYS_FILE).stat().st_size
    shadowed = 0
    if count:
        index = native.require("writing keys").KeyIndex(
            slots, map_file(folder / KEYS_FILE, keys_bytes), key_type == "string", count, capacity,
            SEED, offsets[0], values[0], values[1], f"{DIRECTORY}/ of {folder.parent.name}",
        )  # fmt: skip
        for start in range(0, count, STEP):
            stop = min(start + STEP, count)
            first, second, hidden = index.insert(slots, start, stop, on_duplicate == "last")
            if second:
                raise DuplicateKeyError(
                    f"every key must name one row, found key {shown(index.key(second))} at rows {first} and "
                    f'{second}; remove one, or pass on_duplicate="last" to let the last row win'
                )
            shadowed += hidden
    slots.flush()
    return {
        "type": key_type,
        "count": count,
        "file": f"{DIRECTORY}/{KEYS_FILE}",
        "file_bytes": keys_bytes,
        "offsets": {"offset": offsets[0], "length": offsets[1]},
        "values": {"offset": values[0], "length": values[1]},
        "index": f"{DIRECTORY}/{INDEX_FILE}",
        "index_bytes": size,
        "capacity": capacity,
        "seed": SEED,
        "duplicates": on_duplicate,
        "shadowed": shadowed,
    }
