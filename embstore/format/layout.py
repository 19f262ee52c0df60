"""Where the bytes of a table lie: names, block geometry and the Zarr documents of its arrays."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..arrays import ArraySpec

FORMAT_VERSION = 1
GROUP_FILE = "zarr.json"
SET_ATTRIBUTE = "embstore_set"
CHECKSUM_GROUP = "crc32c"
KEYS_DIR = "keys"
RERANK_DIR = "rerank"
INDEXES_DIR = "indexes"
MAX_METADATA_BYTES = 16 << 20
MAX_CHUNKS_PER_SHARD = 1 << 16
CHUNK_BYTES = 512 << 10
SHARD_BYTES = 512 << 20
MIN_CHUNK_BYTES = 4 << 10
SUBWORD_BUCKETS = "subword_buckets"
RESERVED_NAMES = frozenset(
    {CHECKSUM_GROUP, KEYS_DIR, SUBWORD_BUCKETS, RERANK_DIR, INDEXES_DIR, "zarr", "c", "overlay", "generations"}
)
ARRAY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

GROUP_DOCUMENT: dict[str, Any] = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII, no NaN. The digest and every comparison use it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def document(value: Any) -> bytes:
    """JSON as it is stored: without spaces, so that every byte means something and a changed one shows."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def floor_pow2(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def ceil_pow2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def geometry(num_rows: int, row_nbytes: Iterable[int]) -> tuple[int, int]:
    """(rows_per_shard, rows_per_chunk) for the widest of the rows arrays; both powers of two.

    Small tables get smaller chunks: at most a 64th of the rows, so that the padding of the last one stays small.
    """
    widest = max(row_nbytes, default=1)
    whole = ceil_pow2(max(num_rows, 1))
    chunk = min(floor_pow2(CHUNK_BYTES // widest), floor_pow2(num_rows // 64))
    chunk = min(max(chunk, floor_pow2(MIN_CHUNK_BYTES // widest)), whole)
    shard = min(max(floor_pow2(SHARD_BYTES // widest), chunk), whole)
    return min(shard, chunk * MAX_CHUNKS_PER_SHARD), chunk


def chunks_of(rows: int, rows_per_chunk: int) -> int:
    return -(-rows // rows_per_chunk)


@functools.lru_cache(maxsize=64)
def shard_index(present: int, total: int, chunk_nbytes: int) -> bytes:
    """The index at the end of a shard: (offset, nbytes) of each inner chunk, absent ones all ones, then crc32c."""
    import google_crc32c

    entries = np.full((total, 2), 2**64 - 1, "<u8")
    entries[:present, 0] = np.arange(present, dtype="<u8") * np.uint64(chunk_nbytes)
    entries[:present, 1] = chunk_nbytes
    body = entries.tobytes()
    crc: int = google_crc32c.value(body)
    return body + crc.to_bytes(4, "little")


def index_nbytes(rows_per_shard: int, rows_per_chunk: int) -> int:
    return 16 * (rows_per_shard // rows_per_chunk) + 4


def shard_file(name: str, shard: int, ndim: int) -> str:
    return f"{name}/c/{shard}" + "/0" * (ndim - 1)


def single_file(name: str, ndim: int) -> str:
    """The one chunk file of a shared array."""
    return f"{name}/c" + "/0" * ndim


def _bytes_codec(itemsize: int) -> dict[str, Any]:
    # Zarr leaves the byte order out where there is none.
    return {"name": "bytes"} if itemsize == 1 else {"name": "bytes", "configuration": {"endian": "little"}}


def _array_document(
    spec: ArraySpec, shape: tuple[int, ...], chunk: tuple[int, ...], codecs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if spec.dtype.startswith("float") else 0,
        "codecs": codecs,
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def rows_document(spec: ArraySpec, rows_per_shard: int, rows_per_chunk: int) -> dict[str, Any]:
    """The `zarr.json` of a `rows` array."""
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [rows_per_chunk, *spec.row_shape],
            "codecs": [_bytes_codec(spec.itemsize)],
            "index_codecs": [_bytes_codec(8), {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return _array_document(spec, spec.sizes(), (rows_per_shard, *spec.row_shape), [sharding])


def single_document(spec: ArraySpec) -> dict[str, Any]:
    """The `zarr.json` of a shared array: one chunk."""
    shape = spec.sizes()
    return _array_document(spec, shape, tuple(max(n, 1) for n in shape), [_bytes_codec(spec.itemsize)])


def buckets_spec(kept: int) -> ArraySpec:
    """The array of the buckets that a pruned fastText model kept; it lies beside the method's arrays."""
    return ArraySpec(SUBWORD_BUCKETS, "uint32", (kept,), "shared")


def checksum_spec(spec: ArraySpec, rows_per_chunk: int) -> ArraySpec:
    """The side array of block checksums of a `rows` array; it lies in the group `crc32c`."""
    return ArraySpec(spec.name, "uint32", (chunks_of(spec.sizes()[0], rows_per_chunk),), "shared")
