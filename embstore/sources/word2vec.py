"""word2vec's binary format: a line `rows dims`, then per row the word, a blank and float32 values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._io import FileReader, bad, table_shape
from ._source import BaseSource, Block
from .keys import is_utf8, not_utf8
from .text import is_number, parse_header

BLOCK = 1 << 22
MAX_KEY = 1 << 16


def split_header(reader: FileReader) -> tuple[int, int, int] | None:
    """Rows, dims and the offset after the header line, or None."""
    line, end, _ = reader.head(64).partition(b"\n")
    counts = parse_header(line)
    return (*counts, len(line) + 1) if counts and end else None


def is_binary(reader: FileReader) -> bool:
    """Whether what follows a header line is binary: its second line is no key with numbers."""
    header = split_header(reader)
    if header is None or reader.size <= header[2]:
        return False
    _, dims, offset = header
    line = reader.read(offset, min(reader.size - offset, 64 * (dims + 4)))
    fields = line.partition(b"\n")[0].split()
    if len(fields) > dims and all(is_number(f) for f in fields[-dims:]):
        return False
    # Text that is merely wrong is better explained by the text reader.
    return any(b < 9 or 13 < b < 32 for b in line) or not line.isascii()


class Word2vecSource(BaseSource):
    """Streamed in order; offsets met on the way are kept so that a later pass can start near its row."""

    def __init__(self, reader: FileReader) -> None:
        header = split_header(reader)
        if header is None:
            raise bad(reader.name, "a first line 'rows dims'", repr(reader.head(20)), "is it word2vec binary?")
        rows, dims, offset = header
        shape = table_shape(reader.name, rows, dims)
        if offset + rows * (4 * dims + 1) > reader.size:
            raise reader.short(offset + rows * (4 * dims + 1))
        super().__init__(reader.name, "word2vec-binary", shape, "float32", reader.fingerprint)
        self.key_type = "string"
        self.num_keys = rows
        self._reader = reader
        self._marks = {0: offset}

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        total, dims = self.shape.num_embeddings, self.shape.embedding_dim
        width = 4 * dims
        row = max(r for r in self._marks if r <= start)
        base, pos, buffer = self._marks[row], 0, b""

        def more() -> None:
            nonlocal base, pos, buffer
            base += pos
            buffer, pos = buffer[pos:], 0
            left = self._reader.size - base - len(buffer)
            if not left:
                raise bad(self.name, f"{total} rows", f"its end in row {row}", "it is truncated, get the file again")
            buffer += self._reader.read(base + len(buffer), min(left, BLOCK + width))

        while row < total:
            n = min(max_rows, total - row) if row >= start else min(max_rows, start - row)
            rows = np.empty((n, dims), "<f4")
            flat = rows.reshape(-1).view(np.uint8).data
            words: list[bytes] = []
            self._marks[row] = base + pos
            for i in range(n):
                blank = buffer.find(b" ", pos)
                while blank < 0 or blank + 1 + width > len(buffer):
                    if blank < 0 and len(buffer) - pos > MAX_KEY:
                        raise bad(
                            self.name,
                            "a blank after each key",
                            f"none in row {row}",
                            "the file is damaged, get it again",
                        )
                    more()
                    blank = buffer.find(b" ", pos)
                words.append(buffer[pos:blank].lstrip(b"\n"))
                pos = blank + 1 + width
                flat[i * width : (i + 1) * width] = buffer[blank + 1 : pos]
                row += 1
            if row > start:
                yield rows.astype(np.float32, copy=False), self._keys_of(words, row - n)
        rest = self._reader.read(base + pos, min(self._reader.size - base - pos, 4096))
        if rest.strip():
            raise bad(
                self.name, f"{total} rows as its header says", "more bytes after them", "the header or file is damaged"
            )

    def _keys_of(self, words: list[bytes], first: int) -> list[str]:
        try:
            return [w.decode() for w in words]
        except UnicodeDecodeError:
            row = next(i for i, w in enumerate(words) if not is_utf8(w))
            raise not_utf8(self.name, first + row, words[row]) from None

    def close(self) -> None:
        self._reader.close()
