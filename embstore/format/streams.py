"""The files of a table while rows are appended to them."""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..arrays import ArraySpec
from . import layout
from .staging import start_writeback, write_all

_WRITEBACK = 8 << 20


class RowsFile:
    """One rows array: its current shard file and the running checksum of its current block."""

    def __init__(self, spec: ArraySpec, blocks: int) -> None:
        self.spec = spec
        self.crcs = np.zeros(blocks, "<u4")
        self.stream: BinaryIO | None = None
        self.written = 0
        self.flushed = 0

    def write(self, data: npt.NDArray[np.uint8], block: int) -> None:
        import google_crc32c

        assert self.stream is not None
        self.crcs[block] = google_crc32c.extend(int(self.crcs[block]), data)
        write_all(self.stream, data)
        self.written += data.nbytes
        if self.written - self.flushed >= _WRITEBACK:
            start_writeback(self.stream.fileno(), self.flushed, self.written - self.flushed)
            self.flushed = self.written


class RaggedFile:
    """One ragged array: a single file that grows with the rows."""

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        self.file = layout.single_file(spec.name, len(spec.shape))
        self.item_nbytes = spec.itemsize * math.prod(int(s) for s in spec.shape[1:])
        self.stream: BinaryIO | None = None
        self.count = 0
        self.crc = 0

    def write(self, data: npt.NDArray[Any], path: str) -> None:
        import google_crc32c

        if self.stream is None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self.stream = open(path, "ab", buffering=0)  # noqa: SIM115
            # What an earlier run wrote after its last whole shard.
            self.stream.truncate(self.count * self.item_nbytes)
        raw = data.reshape(-1).view(np.uint8)
        self.crc = google_crc32c.extend(self.crc, raw)
        write_all(self.stream, raw)
        self.count += len(data)

    def nbytes(self, state: bytes) -> int:
        """Bytes of the file that a state speaks of."""
        return int.from_bytes(state[:8], "little") * self.item_nbytes

    def state(self) -> bytes:
        """Items written and their checksum, 12 bytes."""
        return self.count.to_bytes(8, "little") + self.crc.to_bytes(4, "little")

    def resume(self, state: bytes) -> None:
        self.count, self.crc = int.from_bytes(state[:8], "little"), int.from_bytes(state[8:12], "little")
