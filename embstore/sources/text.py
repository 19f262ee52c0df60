"""Word vectors as text: word2vec and fastText `.vec` (with a header line), GloVe (without); plain or gzip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import SourceError
from ..method import FloatRows
from ._io import FileReader, bad, table_shape
from ._source import BaseSource, Block
from .keys import is_utf8, line_blocks, not_utf8

# gzip cannot pack more than 1032 bytes into one.
GZIP_RATIO = 1032


def parse_header(line: bytes) -> tuple[int, int] | None:
    """`rows dims` of a word2vec header line, or None."""
    fields = line.split()
    if len(fields) != 2 or not all(f.isdigit() and len(f) < 19 for f in fields):
        return None
    return int(fields[0]), int(fields[1])


def is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field


class TextSource(BaseSource):
    """One key and `embedding_dim` numbers a line; keys may contain blanks, as some of GloVe 840B do."""

    def __init__(self, reader: FileReader, header: bool | None = None) -> None:
        self._reader = reader
        self._header = b""
        first = b""
        for block in line_blocks(reader.path):
            lines = [line for line in block if line.strip()]
            if lines:
                first = lines[0]
                break
        counts = parse_header(first) if header is not False else None
        if header and counts is None:
            raise bad(reader.name, "a first line 'rows dims'", repr(first[:60]), "or read it as format 'glove'")
        self._skip = counts is not None
        rows, dims = counts or (self._count(), len(first.split()) - 1)
        shape = table_shape(reader.name, rows, dims)
        zipped = reader.head(2) == b"\x1f\x8b"
        if 2 * rows * dims > reader.size * (GZIP_RATIO if zipped else 1):
            raise reader.short(2 * rows * dims)
        format = "word2vec-text" if counts else "glove"
        super().__init__(reader.name, format, shape, "text", reader.fingerprint)
        self.key_type = "string"
        self.num_keys = rows

    def _count(self) -> int:
        return sum(sum(1 for line in block if line.strip()) for block in line_blocks(self._reader.path))

    def _lines(self) -> Iterator[list[bytes]]:
        skip = self._skip
        for block in line_blocks(self._reader.path):
            lines = [line for line in block if line and not line.isspace()]
            if skip and lines:
                lines, skip = lines[1:], False
            if lines:
                yield lines

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        total, dims = self.shape.num_embeddings, self.shape.embedding_dim
        at = 0
        rows = np.empty((min(max_rows, total - start), dims), np.float32)
        keys: list[str] = []
        for lines in self._lines():
            if at + len(lines) > total:
                raise bad(self.name, f"{total} rows as its header says", "more lines", "correct the header")
            todo = lines[max(0, start - at) :]
            at += len(lines)
            while todo:
                part, todo = todo[: len(rows) - len(keys)], todo[len(rows) - len(keys) :]
                first = at - len(todo) - len(part)
                words, values = self._parse(part, first)
                rows[len(keys) : len(keys) + len(part)] = values
                keys += words
                if len(keys) == len(rows):
                    yield rows, keys
                    done = first + len(part)
                    rows = np.empty((max(1, min(max_rows, total - done)), dims), np.float32)
                    keys = []
        if keys:
            yield rows[: len(keys)], keys

    def _parse(self, lines: list[bytes], first: int) -> tuple[list[str], FloatRows]:
        dims = self.shape.embedding_dim
        words: list[bytes] = []
        numbers: list[bytes] = []
        for i, line in enumerate(lines):
            line = line.rstrip()
            if line.count(b" ") == dims:
                word, _, rest = line.partition(b" ")
            else:
                word, rest = self._split(line, first + i)
            words.append(word)
            numbers.append(rest)
        try:
            keys = [word.decode() for word in words]
        except UnicodeDecodeError:
            row = next(i for i, word in enumerate(words) if not is_utf8(word))
            raise not_utf8(self.name, first + row, words[row]) from None
        return keys, self._floats(numbers, first)

    def _split(self, line: bytes, row: int) -> tuple[bytes, bytes]:
        dims = self.shape.embedding_dim
        fields = line.rsplit(None, dims)
        # A number at the end of the key means a row that is too wide, not a key with a blank in it.
        extra = fields[0].split()[1:] if fields else []
        if len(fields) != dims + 1 or any(is_number(f) for f in extra):
            found = len(line.split()) - 1
            raise bad(
                self.name, f"a key and {dims} values in each row", f"{found} values in row {row}", "correct that line"
            )
        return fields[0], b" ".join(fields[1:])

    def _floats(self, numbers: list[bytes], first: int) -> FloatRows:
        import pyarrow as pa
        import pyarrow.compute as pc

        dims = self.shape.embedding_dim
        try:
            joined = pa.array([b" ".join(numbers).decode("ascii")], pa.large_string())
            values: FloatRows = pc.split_pattern(joined, " ").flatten().cast(pa.float32()).to_numpy()
            if values.size == len(numbers) * dims:
                return values.reshape(len(numbers), dims)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            pass
        # Arrow is strict about spellings such as "+1"; this path is slow and names the row.
        out = np.empty((len(numbers), dims), np.float32)
        for i, line in enumerate(numbers):
            fields = line.split()
            odd = next((f for f in fields if not is_number(f)), None)
            if odd is not None or len(fields) != dims:
                found = repr(odd[:40]) if odd is not None else f"{len(fields)} values"
                raise bad(self.name, f"{dims} numbers in each row", f"{found} in row {first + i}", "correct that line")
            with np.errstate(over="ignore"):
                out[i] = np.array([float(f) for f in fields])
        return out

    def close(self) -> None:
        self._reader.close()


def looks_like_text(reader: FileReader, sample: bytes) -> bool:
    """Whether a first full line of the sample is a header, or a key and numbers."""
    lines = [line for line in sample.split(b"\n") if line.strip()]
    if not lines:
        return False
    if b"\0" in sample:
        return False
    head = parse_header(lines[0])
    if head is None:
        fields = lines[0].split()
        return len(fields) > 1 and is_number(fields[-1])
    return True


def empty(name: str) -> SourceError:
    return bad(name, "embeddings", "an empty file", "check that it was written")
