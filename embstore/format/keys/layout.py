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

import struct
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

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


def capacity_for(count: int) -> int:
    """Slots for `count` keys: the smallest power of two, at least 16, that is at most 0.7 full."""
    capacity = 16
    while count * 10 > capacity * 7:
        capacity *= 2
    return capacity


def header(key_type: KeyType, capacity: int, count: int, seed: int) -> bytes:
    """The first bytes of an index."""
    return HEADER.pack(MAGIC, VERSION, KINDS[key_type], capacity, count, seed)
