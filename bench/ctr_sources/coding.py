"""Raw values of a column to 64-bit keys, and keys of a column to ids, in memory of the distinct values alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Keys = npt.NDArray[np.uint64]
CHUNK = 1 << 20
MISSING = np.uint64(2**64 - 1)


def of_text(column: pa.Array | pa.ChunkedArray) -> Keys:
    """Keys of strings: the first 8 bytes of their BLAKE2b digest; the empty string is a value like the others.

    Of 40 million distinct values two share a key with probability 4e-5.
    """
    coded = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
    values = ["" if value is None else str(value) for value in coded.dictionary.to_pylist()]
    hashed = [int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little") for value in values]
    table = np.array([*hashed, int(MISSING)], np.uint64)
    keys: Keys = table[coded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)]
    return keys


def of_integers(column: pa.Array | pa.ChunkedArray) -> Keys:
    """Keys of integers: their values; a null has a key of its own."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    keys = pc.fill_null(whole.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
    return np.where(whole.is_null().to_numpy(zero_copy_only=False), MISSING, keys)


def of_numbers(column: pa.Array | pa.ChunkedArray) -> Keys:
    """Buckets of numbers: floor(ln(1 + x)²); negative and missing ones are in bucket 0."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = np.nan_to_num(pc.fill_null(whole.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False))
    buckets: Keys = np.floor(np.log1p(np.maximum(values, 0)) ** 2).astype(np.uint64)
    return buckets


def distinct(path: Path) -> Keys:
    """The sorted distinct keys of a file of uint64."""
    runs: list[Keys] = []
    keys = np.memmap(path, np.uint64, "r")
    for start in range(0, len(keys), CHUNK):
        runs.append(np.unique(keys[start : start + CHUNK]))
        # Runs of like size are merged, so that each key is moved a logarithmic number of times.
        while len(runs) > 1 and 2 * len(runs[-1]) > len(runs[-2]):
            runs.append(np.union1d(runs.pop(), runs.pop()))
    while len(runs) > 1:
        runs.append(np.union1d(runs.pop(), runs.pop()))
    return runs[0]


def recode(path: Path) -> int:
    """Replace each key of a file of uint64 by its place among the distinct ones; their number."""
    values = distinct(path)
    keys = np.memmap(path, np.uint64, "r+")
    for start in range(0, len(keys), CHUNK):
        keys[start : start + CHUNK] = np.searchsorted(values, keys[start : start + CHUNK])
    return len(values)
