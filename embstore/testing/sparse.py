"""Tables of any size that take no space, to measure what opening costs."""

from __future__ import annotations

from pathlib import Path

from ..arrays import ArraySpec
from ..format import layout, metadata


def sparse_table(path: Path, rows: int, dim: int) -> int:
    """A table of which only metadata and shard indexes take space; `verify` would object. Returns its shards."""
    specs = (ArraySpec("codes", "uint8", (rows, dim), "rows"), ArraySpec("affine", "float16", (rows, 1, 2), "rows"))
    per_shard, per_chunk = layout.geometry(rows, [s.row_nbytes for s in specs])
    shards = layout.chunks_of(rows, per_shard)
    for spec in specs:
        (path / spec.name).mkdir(parents=True)
        document = layout.document(layout.rows_document(spec, per_shard, per_chunk))
        (path / spec.name / "zarr.json").write_bytes(document)
        for k in range(shards):
            file = path / layout.shard_file(spec.name, k, len(spec.shape))
            file.parent.mkdir(parents=True, exist_ok=True)
            present = layout.chunks_of(min(per_shard, rows - k * per_shard), per_chunk)
            with file.open("wb") as out:
                out.seek(present * per_chunk * spec.row_nbytes)
                out.write(layout.shard_index(present, per_shard // per_chunk, per_chunk * spec.row_nbytes))
    config = {"block_size": dim, "symmetric": False, "scale_dtype": "float16", "range": "minmax"}
    generation = {
        "id": 0,
        "path": "",
        "rows": [0, rows],
        "method": {"id": "int8", "version": 1, "config": config},
        "arrays": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape), "partition": "rows"} for s in specs],
        "rows_per_shard": per_shard,
        "rows_per_chunk": per_chunk,
    }
    meta = {
        "format_version": 1,
        "shape": {"num_embeddings": rows, "embedding_dim": dim},
        "generations": [generation],
        "transforms": [],
        "keys": None,
        "subwords": None,
        "requires": [],
        "checksums": {"algorithm": "crc32c", "shared": {}, "rows": {s.name: 0 for s in specs}, "files": {}},
        "provenance": {},
    }
    meta["digest"] = metadata.digest(meta)
    group = {"attributes": {"embstore": meta}, "zarr_format": 3, "node_type": "group"}
    (path / "zarr.json").write_bytes(layout.document(group))
    return shards
