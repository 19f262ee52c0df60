"""A table that was never a directory: machines with a GPU need not have what writes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import embstore
from embstore.arrays import Arrays, TableShape
from embstore.format.reader import StoredTable
from embstore.method import RowMethod


def table_of(
    method: RowMethod, shape: TableShape, shards: Sequence[Arrays], rows_per_shard: int, shared: Mapping[str, Any]
) -> embstore.Table:
    """A table of a resolved method without free dimensions."""
    stored = StoredTable(
        path="", shape=shape, method_id=method.id, method_version=method.version, config=method.config(),
        transforms=[], specs=method.layout(shape), rows_per_shard=rows_per_shard, rows_per_chunk=rows_per_shard,
        shared=dict(shared), keys=None, subwords=None, subword_buckets=None, provenance={}, metadata={}, _rows={},
    )  # fmt: skip
    stored.__dict__["shards"] = list(shards)  # in the place of what opening the files would give
    return embstore.Table(stored)
