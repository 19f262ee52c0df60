"""How far a table is written, so that an interrupted run goes on from there: a small file for each part that is done.

A part is a shard; of tables whose arrays are all ragged, which have no shards, as many rows as float32 fills one with.
The file of a part holds the checksums of its blocks, of each rows array, and then what each ragged array has come to.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Sequence

import numpy as np

from ..arrays import TableShape
from . import layout
from .staging import Staging
from .streams import RaggedFile, RowsFile

_FOLDER = "progress.embstore"


def rows_per_part(shape: TableShape, rows_per_shard: int, by_row: bool) -> int:
    """Rows after which what was written is made durable. by_row : whether any array is stored in shards."""
    return rows_per_shard if by_row else layout.floor_pow2(layout.SHARD_BYTES // (4 * shape.embedding_dim))


class Progress:
    """The parts of a table that are whole and durable.

    Parameters
    ----------
    rows, ragged : the files of its arrays; `resume` brings them where the last part left them.
    part, rows_per_shard, rows_per_chunk : rows of each.
    """

    def __init__(
        self, staging: Staging, rows: Sequence[RowsFile], ragged: Sequence[RaggedFile], num_embeddings: int,
        part: int, rows_per_shard: int, rows_per_chunk: int,
    ) -> None:  # fmt: skip
        self._staging, self._rows, self._ragged, self._total = staging, rows, ragged, num_embeddings
        self._part, self._per_shard, self._per_chunk = part, rows_per_shard, rows_per_chunk

    def __bool__(self) -> bool:
        """Whether anything was marked."""
        return os.path.isdir(self._staging.file(_FOLDER))

    def _file(self, part: int) -> str:
        return f"{_FOLDER}/{part}"

    def remove(self) -> None:
        """Remove what was marked, as a published table has no use for it."""
        shutil.rmtree(self._staging.file(_FOLDER), ignore_errors=True)

    def clear(self) -> None:
        """Forget all parts; the files are as if nothing had been written."""
        self.remove()
        for rows_file in self._rows:
            rows_file.crcs[:] = 0
        for ragged in self._ragged:
            ragged.resume(bytes(12))

    def mark(self, part: int, blocks: slice) -> None:
        """Record a part that is durable but for its ragged arrays, which are made so here.

        blocks : those of rows arrays that lie in it.
        """
        record = b"".join(rows_file.crcs[blocks].tobytes() for rows_file in self._rows)
        for ragged in self._ragged:
            if ragged.stream is not None:
                os.fsync(ragged.stream.fileno())
            record += ragged.state()
        self._staging.write(self._file(part), record + zlib.crc32(record).to_bytes(4, "little"))

    def resume(self) -> int:
        """Rows in the parts that an earlier run finished, and whose files are there."""
        done = 0
        try:
            while done < self._total and self._resumed(done // self._part, min(self._part, self._total - done)):
                done = min(done + self._part, self._total)
        except (OSError, ValueError):
            pass  # a part that cannot be read is encoded again, and those after it
        return done

    def _resumed(self, part: int, rows: int) -> bool:
        with open(self._staging.file(self._file(part)), "rb") as file:
            data = file.read()
        body = np.frombuffer(data, "<u4")
        present = layout.chunks_of(rows, self._per_chunk)
        blocks = present * len(self._rows)
        if len(body) != blocks + 3 * len(self._ragged) + 1 or zlib.crc32(data[:-4]) != body[-1]:
            return False
        states = [data[4 * (blocks + 3 * k) :][:12] for k in range(len(self._ragged))]
        if not all(self._holds(r, s) for r, s in zip(self._ragged, states, strict=True)):
            return False
        first = part * self._part // self._per_chunk
        for k, rows_file in enumerate(self._rows):
            spec = rows_file.spec
            size = present * self._per_chunk * spec.row_nbytes + layout.index_nbytes(self._per_shard, self._per_chunk)
            if os.stat(self._staging.file(layout.shard_file(spec.name, part, len(spec.shape)))).st_size != size:
                return False
            rows_file.crcs[first : first + present] = body[k * present : (k + 1) * present]
        for ragged, state in zip(self._ragged, states, strict=True):
            ragged.resume(state)
        return True

    def _holds(self, ragged: RaggedFile, state: bytes) -> bool:
        """Whether the file of an earlier run has all that `state` speaks of."""
        path = self._staging.file(ragged.file)
        return ragged.nbytes(state) <= (os.stat(path).st_size if os.path.exists(path) else 0)
