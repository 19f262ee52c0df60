"""`verify`: every stored byte held against its checksum, every fault named by shard, block and rows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..arrays import ArraySpec
from ..errors import CorruptionError, EmbstoreError
from . import layout
from . import metadata as _metadata
from .metadata import Metadata
from .reader import StoredTable, check_document, check_size, expected_document, shard_sizes

_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `rows` is the half-open range of ids not to be trusted; None where it may be all."""

    array: str
    shard: int | None
    block: int | None
    rows: tuple[int, int] | None
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def file_crc(path: str) -> int:
    """crc32c of a whole file, read in pieces."""
    import google_crc32c

    crc = 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            crc = google_crc32c.extend(crc, piece)
    return crc


def verify(table: str | os.PathLike[str] | StoredTable) -> list[Fault]:
    """Read every byte of a table; an empty list means all is well.

    Raises what `open_table` raises when the group's own metadata cannot be used: without it nothing can be judged.
    """
    path = table.path if isinstance(table, StoredTable) else os.path.abspath(table)
    meta = _metadata.read(path)
    faults: list[Fault] = []
    if any(s.partition == "rows" for s in meta.specs):
        faults += _guard(
            layout.CHECKSUM_GROUP, lambda: check_document(path, layout.CHECKSUM_GROUP, layout.GROUP_DOCUMENT)
        )
    for spec in meta.specs:
        faults += _guard(spec.name, lambda spec=spec: check_document(path, spec.name, expected_document(meta, spec)))
        if spec.partition == "rows":
            faults += _rows(path, meta, spec)
        elif spec.nbytes():
            file = layout.single_file(spec.name, len(spec.shape))
            faults += _file(path, file, spec.name, spec.nbytes(), meta.shared_crc[spec.name])
    if meta.subwords is not None and "kept" in meta.subwords:
        buckets = layout.buckets_spec(meta.subwords["kept"])
        document = layout.single_document(buckets)
        faults += _guard(buckets.name, lambda: check_document(path, buckets.name, document))
    for file, entry in meta.files.items():
        faults += _file(path, file, file, entry["nbytes"], entry["crc32c"])
    if meta.rerank is not None:
        faults += _rerank(path, meta.rerank)
    return faults


def _rerank(path: str, digest: str) -> list[Fault]:
    inner = os.path.join(path, layout.RERANK_DIR)

    def check() -> None:
        if _metadata.read(inner).raw["digest"] != digest:
            raise CorruptionError(
                f"the table in {layout.RERANK_DIR!r} is not the one the metadata names; restore the table from a copy"
            )

    found = _guard(layout.RERANK_DIR, check)
    return found or [
        dataclasses.replace(f, array=f"{layout.RERANK_DIR}/{f.array}", sentence=f"{layout.RERANK_DIR}/: {f.sentence}")
        for f in verify(inner)
    ]


def _guard(array: str, check: object) -> list[Fault]:
    try:
        check()  # type: ignore[operator]
    except EmbstoreError as error:
        return [Fault(array, None, None, None, str(error))]
    except OSError as error:
        return [Fault(array, None, None, None, f"{array!r} could not be read ({error.strerror}); check the disk")]
    return []


def _file(path: str, file: str, array: str, nbytes: int, crc: int) -> list[Fault]:
    def check() -> None:
        check_size(f"{path}/{file}", nbytes, f"file {file!r}")
        if file_crc(f"{path}/{file}") != crc:
            raise CorruptionError(f"file {file!r} does not match its checksum; restore the table from a copy")

    return _guard(array, check)


def _rows(path: str, meta: Metadata, spec: ArraySpec) -> Iterator[Fault]:
    sums = layout.checksum_spec(spec, meta.rows_per_chunk)
    name = f"{layout.CHECKSUM_GROUP}/{spec.name}"
    found = _guard(name, lambda: check_document(path, name, layout.single_document(sums)))
    file = layout.single_file(name, 1)
    if sums.nbytes():
        found += _file(path, file, name, sums.nbytes(), meta.rows_crc[spec.name])
    yield from found
    if not found:
        crcs = np.fromfile(f"{path}/{file}", "<u4") if sums.nbytes() else np.zeros(0, "<u4")
        for shard in range(layout.chunks_of(meta.shape.num_embeddings, meta.rows_per_shard)):
            yield from _shard(path, meta, spec, shard, crcs)


def _shard(path: str, meta: Metadata, spec: ArraySpec, shard: int, crcs: np.ndarray) -> Iterator[Fault]:
    import google_crc32c

    rows, present, chunk_nbytes = shard_sizes(meta, spec, shard)
    first = shard * meta.rows_per_shard
    total = meta.rows_per_shard // meta.rows_per_chunk
    file = f"{path}/{layout.shard_file(spec.name, shard, len(spec.shape))}"
    what = f"shard {shard} of array {spec.name!r}"
    try:
        nbytes = present * chunk_nbytes + layout.index_nbytes(meta.rows_per_shard, meta.rows_per_chunk)
        check_size(file, nbytes, what)
        with open(file, "rb", buffering=0) as stream:
            for block in range(present):
                crc, left = 0, chunk_nbytes
                while left and (piece := stream.read(min(left, _PIECE))):
                    crc, left = google_crc32c.extend(crc, piece), left - len(piece)
                if left or crc != crcs[first // meta.rows_per_chunk + block]:
                    low = first + block * meta.rows_per_chunk
                    high = min(low + meta.rows_per_chunk, first + rows)
                    sentence = f"block {block} of {what} (rows {low} to {high - 1}) does not match its checksum"
                    yield Fault(spec.name, shard, block, (low, high), sentence + "; restore the table from a copy")
            if stream.read() != layout.shard_index(present, total, chunk_nbytes):
                sentence = f"index of {what} is damaged; restore the table from a copy"
                yield Fault(spec.name, shard, None, (first, first + rows), sentence)
    except (CorruptionError, OSError) as error:
        sentence = str(error) if isinstance(error, CorruptionError) else f"{what} could not be read ({error.strerror})"
        yield Fault(spec.name, shard, None, (first, first + rows), sentence)
