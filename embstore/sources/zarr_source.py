"""Zarr arrays and groups (directories or zip files)."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceNotFoundError
from ._io import bad, check_dtype, pick
from ._source import BaseSource, SliceSource, first_line
from .keys import HeldKeys

# Some numcodecs filters unpickle what they decode, so only codecs known to be plain are let through.
SAFE_CODECS = frozenset(
    (
        "bytes",
        "gzip",
        "zstd",
        "zlib",
        "blosc",
        "crc32",
        "crc32c",
        "adler32",
        "fletcher32",
        "jenkins_lookup3",
        "transpose",
        "sharding_indexed",
        "lz4",
        "bz2",
        "lzma",
        "shuffle",
        "delta",
        "fixedscaleoffset",
        "quantize",
        "bitround",
        "packbits",
        "astype",
        "vlen-utf8",
        "vlen_utf8",
    )
)
# A chunk is decoded whole, so its claimed size bounds memory.
MAX_CHUNK = 1 << 32
MARKS = ("zarr.json", ".zarray", ".zgroup")


def open_zarr(path: Any, name: str | None, key_column: str | None, fingerprint: str) -> BaseSource:
    """One 2-D array; `key_column` names a 1-D array of strings or integers."""
    import zarr

    try:
        node: Any = zarr.open(path, mode="r")
    except Exception as error:
        # Stores, metadata and codecs all raise their own errors.
        raise bad(path.name, "a whole Zarr store", first_line(error), "get it again") from None
    if isinstance(node, zarr.Array):
        arrays = {node.basename or path.name: node}
    else:
        if "embstore" in node.attrs:
            raise bad(
                path.name,
                "embeddings to compress",
                "an embstore table",
                "compress the source it was made from, or export it first",
            )
        try:
            arrays = dict(_arrays(node, ""))
        except Exception as error:
            raise bad(path.name, "a whole Zarr store", first_line(error), "get it again") from None
    shapes = {n: a.shape for n, a in arrays.items()}
    chosen = pick(path.name, "array", shapes, name)
    source = open_zarr_array(arrays[chosen], name=path.name, fingerprint=f"{fingerprint}-{chosen}")
    if key_column is not None:
        keys = arrays[pick(path.name, "array", shapes, key_column, ndim=1)]
        _check_codecs(path.name, keys)
        if keys.shape[0] != source.shape.num_embeddings:
            raise bad(path.name, f"{source.shape.num_embeddings} keys", keys.shape[0], "choose another key array")
        try:
            values = np.asarray(keys[:])
        except Exception as error:
            raise bad(path.name, "readable keys", first_line(error), "get it again") from None
        if values.dtype.kind in "iu":
            source._use(HeldKeys("int64", values.astype(np.int64)))
        else:
            source._use(HeldKeys("string", [str(v) for v in values]))
    return source


def open_zarr_array(array: Any, *, name: str = "array", fingerprint: str = "") -> BaseSource:
    """An open Zarr array."""
    check_dtype(name, np.dtype(array.dtype))
    _check_codecs(name, array)
    if len(array.shape) != 2:
        raise bad(name, "a 2-D array", f"shape {array.shape}", "choose another")
    nbytes = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    if nbytes > MAX_CHUNK:
        raise bad(name, "chunks of at most 4 GiB", f"{nbytes} bytes", "store the array in smaller chunks")
    return SliceSource(
        array,
        _ByChunk(array),
        str(array.dtype),
        name=name,
        format="zarr",
        fingerprint=fingerprint,
    )


class _ByChunk:
    """Slices of an array that decode each Zarr chunk once, also when a chunk has more rows than a slice."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._rows = int(array.chunks[0])
        # One tuple, swapped whole, so that two passes at once cannot mix.
        self._held: tuple[int, npt.NDArray[Any]] = (0, np.empty((0, 0)))

    def __call__(self, start: int, stop: int) -> npt.NDArray[Any]:
        if self._rows <= stop - start:
            return np.asarray(self._array[start:stop])
        parts = []
        while start < stop:
            first, held = self._held
            if not first <= start < first + len(held):
                first = start - start % self._rows
                held = np.asarray(self._array[first : first + self._rows])
                self._held = (first, held)
            parts.append(held[start - first : stop - first])
            start += len(parts[-1])
        return np.concatenate(parts)


def directory_fingerprint(path: Any) -> str:
    """Sizes and times of the files at and below a store's root, counted and summed."""
    count = total = newest = 0
    for file in path.rglob("*"):
        stat = file.stat()
        count, total, newest = count + 1, total + stat.st_size, max(newest, stat.st_mtime_ns)
    if not any((path / mark).exists() for mark in MARKS):
        raise SourceNotFoundError(f"source {path.name!r} is a directory without zarr.json; give a file or a Zarr store")
    return f"{count}-{total}-{newest}"


def _arrays(group: Any, prefix: str, depth: int = 0) -> Any:
    import zarr

    for name, item in group.members():
        path = f"{prefix}{name}"
        if isinstance(item, zarr.Array):
            yield path, item
        elif depth < 8:
            yield from _arrays(item, f"{path}/", depth + 1)


def _check_codecs(name: str, array: Any) -> None:
    for codec in _codec_names(json.loads(json.dumps(array.metadata.to_dict(), default=str))):
        if codec.removeprefix("numcodecs.") not in SAFE_CODECS:
            raise bad(name, "codecs that cannot run code", repr(codec), "store the array with zstd or none")


def _codec_names(metadata: Any) -> Any:
    parts = [metadata.get("compressor"), *(metadata.get("filters") or []), *(metadata.get("codecs") or [])]
    while parts:
        codec = parts.pop()
        if not codec:
            continue
        if not isinstance(codec, dict):
            yield str(codec)
            continue
        yield str(codec.get("name") or codec.get("id"))
        inner = codec.get("configuration") or {}
        parts += [*(inner.get("codecs") or []), *(inner.get("index_codecs") or [])]
