"""Opening a table: metadata and shard indexes are read and checked, everything else is mapped."""

from __future__ import annotations

import functools
import math
import mmap as _mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import native
from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import CorruptionError, FormatError
from . import layout
from . import metadata as _metadata
from .metadata import Metadata

MapFile = Callable[[str, int], npt.NDArray[np.uint8]]
ShardBytes = Callable[[int], npt.NDArray[np.uint8]]
"""The bytes of a shard of one array, by its number."""


@dataclass
class StoredTable:
    """An open table: validated metadata and read-only arrays.

    Attributes
    ----------
    path : directory of the table, absolute.
    config : the method's resolved config as stored.
    transforms : `id`, `version`, `config` of each, in the order they were applied.
    specs : every array, with its sizes.
    shared : arrays of which the table has one copy.
    rerank : digest of the table in `rerank/`, which has the same rows by a finer method; None where there is none.
    mmap : whether the arrays are mapped, not read into memory.
    keys, subwords : metadata of the key index and of fastText's subword rows, or None.
    subword_buckets : the buckets that a pruned fastText model kept, not checked yet; None for others.
    metadata : the whole `embstore` object of `zarr.json`.
    nbytes : bytes of all arrays, what a lookup needs; without keys, checksums and padding.
    """

    path: str
    shape: TableShape
    method_id: str
    method_version: int
    config: dict[str, Any]
    transforms: list[dict[str, Any]]
    specs: tuple[ArraySpec, ...]
    rows_per_shard: int
    rows_per_chunk: int
    shared: dict[str, npt.NDArray[Any]] = field(repr=False)
    keys: dict[str, Any] | None
    subwords: dict[str, int] | None
    subword_buckets: npt.NDArray[np.uint32] | None = field(repr=False)
    provenance: dict[str, Any]
    metadata: dict[str, Any] = field(repr=False)
    _rows: dict[str, ShardBytes] = field(repr=False)
    rerank: str | None = None
    mmap: bool = True

    @functools.cached_property
    def shards(self) -> list[Arrays]:
        """Rows arrays by shard; `.start` is the id of the first row. Made when first asked for, opening need not."""
        specs = [s for s in self.specs if s.partition == "rows"]
        starts = range(0, self.shape.num_embeddings, self.rows_per_shard) if specs else range(0)
        return [Arrays({s.name: self._shard(s, k) for s in specs}, start) for k, start in enumerate(starts)]

    def _shard(self, spec: ArraySpec, shard: int) -> npt.NDArray[Any]:
        rows = min(self.rows_per_shard, self.shape.num_embeddings - shard * self.rows_per_shard)
        shape, dtype = (rows, *spec.row_shape), np.dtype(spec.dtype).newbyteorder("<")
        return np.ndarray(shape, dtype, self._rows[spec.name](shard))

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes() for spec in self.specs)


def _map_python(path: str, nbytes: int) -> npt.NDArray[np.uint8]:
    with open(path, "rb") as file:
        return np.frombuffer(_mmap.mmap(file.fileno(), nbytes, prot=_mmap.PROT_READ), np.uint8)


def _read(path: str, nbytes: int) -> npt.NDArray[np.uint8]:
    data = np.fromfile(path, np.uint8)
    data.flags.writeable = False
    return data


def file_mapper(mmap: bool) -> MapFile:
    """How files become arrays here: mapped natively, by Python, or read."""
    if not mmap:
        return _read
    if native.available():
        return native.require("mapping a table").map_file  # type: ignore[no-any-return]
    return _map_python


def check_size(path: str, nbytes: int, what: str) -> None:
    """`CorruptionError` unless the file is there with exactly `nbytes`."""
    try:
        found = os.stat(path).st_size
    except OSError as error:
        raise CorruptionError(f"{what} is missing ({error.strerror}); restore the table from a copy") from error
    if found != nbytes:
        raise CorruptionError(f"{what} must have {nbytes} bytes, found {found}; restore the table from a copy")


def check_document(path: str, name: str, expected: dict[str, Any]) -> None:
    """Hold an array's or group's zarr.json against the one the format prescribes."""
    what = f"zarr.json of {name!r}"
    found = _metadata.load_json(os.path.join(path, name, layout.GROUP_FILE), what)
    if layout.canonical(found) == layout.canonical(expected):
        return
    found = {"attributes": {}, "storage_transformers": []} | found if expected["node_type"] == "array" else dict(found)
    for key in ("dimension_names", "consolidated_metadata"):
        if key not in expected and found.get(key, 0) is None:
            del found[key]
    for key in sorted(set(found) | set(expected)):
        if key not in found or key not in expected or layout.canonical(found[key]) != layout.canonical(expected[key]):
            want = layout.canonical(expected[key]).decode() if key in expected else "absent"
            have = layout.canonical(found[key]).decode()[:200] if key in found else "nothing"
            raise FormatError(f"field {key} in {what} must be {want}, found {have}; restore the table from a copy")


def shard_sizes(meta: Metadata, spec: ArraySpec, shard: int) -> tuple[int, int, int]:
    """(rows, inner chunks present, bytes of one inner chunk) of a shard."""
    rows = min(meta.rows_per_shard, meta.shape.num_embeddings - shard * meta.rows_per_shard)
    return rows, layout.chunks_of(rows, meta.rows_per_chunk), meta.rows_per_chunk * spec.row_nbytes


def num_shards(meta: Metadata) -> int:
    return layout.chunks_of(meta.shape.num_embeddings, meta.rows_per_shard)


def _check_shard_size(path: str, meta: Metadata, spec: ArraySpec, shard: int) -> tuple[str, int]:
    """The file of a shard and its size, which is as it must be."""
    _, present, chunk_nbytes = shard_sizes(meta, spec, shard)
    nbytes = present * chunk_nbytes + layout.index_nbytes(meta.rows_per_shard, meta.rows_per_chunk)
    file = f"{path}/{layout.shard_file(spec.name, shard, len(spec.shape))}"
    check_size(file, nbytes, f"shard {shard} of array {spec.name!r}")
    return file, nbytes


def _map_shard(path: str, meta: Metadata, spec: ArraySpec, shard: int, map_file: MapFile) -> npt.NDArray[np.uint8]:
    """Bytes of a shard's rows; every way in which its file can be wrong has its sentence here."""
    what = f"shard {shard} of array {spec.name!r}"
    _, present, chunk_nbytes = shard_sizes(meta, spec, shard)
    data_nbytes = present * chunk_nbytes
    # The size first: an index is made in memory only when the file has room for it.
    file, nbytes = _check_shard_size(path, meta, spec, shard)
    try:
        data = map_file(file, nbytes)
    except OSError as error:
        _check_shard_size(path, meta, spec, shard)
        raise CorruptionError(f"{what} could not be mapped ({error}); retry") from error
    if data.size != nbytes:
        raise CorruptionError(f"{what} changed while it was opened; open it again")
    if data[data_nbytes:].tobytes() != _index(meta, present, chunk_nbytes):
        raise CorruptionError(
            f"index of {what} must list {present} chunks of {chunk_nbytes} bytes "
            "back to back, found other bytes; restore the table from a copy"
        )
    return data[:data_nbytes]


def _index(meta: Metadata, present: int, chunk_nbytes: int) -> bytes:
    return layout.shard_index(present, meta.rows_per_shard // meta.rows_per_chunk, chunk_nbytes)


def _map_rows(path: str, meta: Metadata, spec: ArraySpec, mmap: bool) -> ShardBytes:
    """Map every shard of a rows array."""
    count, map_file = num_shards(meta), file_mapper(mmap)
    if count:
        # The last shard must be there before anything is made in proportion to their number.
        _check_shard_size(path, meta, spec, count - 1)
    if not mmap or not native.available():
        return [_map_shard(path, meta, spec, k, map_file) for k in range(count)].__getitem__
    # Natively all shards in one call: a large table has hundreds, and the calls for each were the cost of opening it.
    mapped = native.require("mapping a table").MappedShards(f"{path}/{spec.name}/c", "/0" * len(spec.row_shape))
    for last in (count - 2, count - 1):  # every shard but the last is alike
        if last < 0:
            continue
        _, present, chunk_nbytes = shard_sizes(meta, spec, last)
        missing = last + 1 - len(mapped)
        if mapped.extend(missing, present * chunk_nbytes, _index(meta, present, chunk_nbytes)) < missing:
            _map_shard(path, meta, spec, len(mapped), map_file)
            raise CorruptionError(
                f"shard {len(mapped)} of array {spec.name!r} changed while it was opened; open it again"
            )
    return mapped.shard  # type: ignore[no-any-return]


def _map_shared(path: str, spec: ArraySpec, map_file: MapFile) -> npt.NDArray[Any]:
    dtype, shape = np.dtype(spec.dtype).newbyteorder("<"), spec.sizes()
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    file = f"{path}/{layout.single_file(spec.name, len(shape))}"
    check_size(file, spec.nbytes(), f"shared array {spec.name!r}")
    try:
        data = map_file(file, spec.nbytes())
    except OSError as error:
        raise CorruptionError(f"shared array {spec.name!r} could not be mapped ({error}); open it again") from error
    if data.size != spec.nbytes():
        raise CorruptionError(f"shared array {spec.name!r} changed while it was opened; open it again")
    return np.ndarray(shape, dtype, data)


def expected_document(meta: Metadata, spec: ArraySpec) -> dict[str, Any]:
    if spec.partition == "rows":
        return layout.rows_document(spec, meta.rows_per_shard, meta.rows_per_chunk)
    return layout.single_document(spec)


def open_table(path: str | os.PathLike[str], mmap: bool = True) -> StoredTable:
    """Open the table directory `path`; `mmap=False` reads the arrays into memory.

    Raises `TableNotFoundError`, `FormatError`, `FormatVersionError`, or `CorruptionError` where bytes are missing.
    Block checksums are not read: `verify` does that.
    """
    path = os.path.abspath(path)
    meta = _metadata.read(path)
    for spec in meta.specs:
        check_document(path, spec.name, expected_document(meta, spec))
    rows = {s.name: _map_rows(path, meta, s, mmap) for s in meta.specs if s.partition == "rows"}
    buckets = None
    if meta.subwords is not None and "kept" in meta.subwords:
        spec = layout.buckets_spec(meta.subwords["kept"])
        check_document(path, spec.name, layout.single_document(spec))
        buckets = _map_shared(path, spec, file_mapper(mmap))
    for file, entry in meta.files.items():
        check_size(f"{path}/{file}", entry["nbytes"], f"file {file!r}")
    return StoredTable(
        path=path,
        shape=meta.shape,
        method_id=meta.method_id,
        method_version=meta.method_version,
        config=meta.config,
        transforms=meta.transforms,
        specs=meta.specs,
        rows_per_shard=meta.rows_per_shard,
        rows_per_chunk=meta.rows_per_chunk,
        shared={s.name: _map_shared(path, s, file_mapper(mmap)) for s in meta.specs if s.partition == "shared"},
        keys=meta.keys,
        subwords=meta.subwords,
        subword_buckets=buckets,
        provenance=meta.provenance,
        metadata=meta.raw,
        _rows=rows,
        rerank=meta.rerank,
        mmap=mmap,
    )


def open_rerank(table: StoredTable) -> StoredTable:
    """The table in `rerank/`, opened as its table was and held against what that says of it, where there is one."""
    inner = open_table(os.path.join(table.path, layout.RERANK_DIR), table.mmap)
    if inner.metadata["digest"] != table.rerank or inner.shape != table.shape:
        raise CorruptionError(
            f"the table in {layout.RERANK_DIR!r} of {os.path.basename(table.path)!r} is not the one its metadata "
            "names; open the table again, or restore it from a copy"
        )
    return inner
