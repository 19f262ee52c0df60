"""`.magnitude`: SQLite with unit vectors as integers scaled by 10**precision, and their norms."""

from __future__ import annotations

import sqlite3
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import SourceError
from ._io import FileReader, bad, table_shape
from ._source import BaseSource, Block, first_line
from .keys import is_utf8, not_utf8


class MagnitudeSource(BaseSource):
    """Rows in rowid order; `value / 10**precision * magnitude` gives the vector that was stored."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        page = int.from_bytes(reader.read(16, 2), "big")
        pages = int.from_bytes(reader.read(28, 4), "big")
        if pages * (65536 if page == 1 else page) > reader.size:
            raise reader.short(pages * (65536 if page == 1 else page))
        self._db = self._connect(reader)
        try:
            fields = self._fields()
            rows, dims = fields["size"], fields["dim"]
            shape = table_shape(reader.name, rows, dims)
            columns = [f"dim_{i}" for i in range(dims)] if dims < 2000 else []
            has = [c[1].decode() for c in self._ask("PRAGMA table_info(magnitude)")]
            if not columns or not {"key", "magnitude", *columns} <= set(has):
                raise bad(
                    reader.name, f"columns key, dim_0 to dim_{dims - 1} and magnitude", len(has), "is it .magnitude?"
                )
            found = next(self._ask("SELECT COUNT(*) FROM magnitude"))[0]
            if found != rows:
                raise bad(reader.name, f"{rows} rows", found, "get the file again")
        except SourceError:
            self._db.close()
            raise
        self._query = f"SELECT key, magnitude, {', '.join(columns)} FROM magnitude ORDER BY rowid LIMIT -1 OFFSET ?"
        self._scale = 10.0 ** -fields["precision"]
        super().__init__(reader.name, "magnitude", shape, "int64", reader.fingerprint)
        self.key_type = "string"
        self.num_keys = rows

    def _connect(self, reader: FileReader) -> sqlite3.Connection:
        uri = f"file:{urllib.parse.quote(str(reader.path.absolute()))}?mode=ro&immutable=1"
        try:
            db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            db.text_factory = bytes
            db.execute("PRAGMA trusted_schema=OFF")
            kinds = dict(db.execute("SELECT name, type || ' ' || sql FROM sqlite_master"))
        except sqlite3.Error as error:
            raise bad(reader.name, "a readable SQLite database", first_line(error), "get the file again") from None
        # A view or virtual table could compute for ever; only plain tables are read.
        for table in (b"magnitude", b"magnitude_format"):
            if not (kinds.get(table) or b"").lower().startswith(b"table create table"):
                raise bad(reader.name, f"a table {table.decode()!r}", "none", "is it a .magnitude file?")
        return db

    def _ask(self, query: str, *values: int) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(query, values)
        except (sqlite3.Error, OverflowError) as error:
            raise bad(self._reader.name, "an undamaged database", first_line(error), "get the file again") from None

    def _fields(self) -> dict[str, int]:
        fields: dict[str, int] = {}
        for key, value in self._ask("SELECT key, value FROM magnitude_format LIMIT 100000"):
            if isinstance(key, bytes) and isinstance(value, int):
                fields.setdefault(key.decode("utf-8", "replace"), value)
        for name in ("size", "dim", "precision"):
            if not 0 <= fields.get(name, -1) <= 2**40:
                raise bad(self._reader.name, f"a count {name!r}", fields.get(name), "get the file again")
        if fields["precision"] > 18:
            raise bad(self._reader.name, "a precision up to 18", fields["precision"], "get the file again")
        return fields

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        at = start
        block: list[tuple[Any, ...]] = []
        for row in self._ask(self._query, start):
            block.append(row)
            if len(block) == max_rows:
                yield self._decode(block, at)
                at += len(block)
                block = []
        if block:
            yield self._decode(block, at)

    def _decode(self, block: list[tuple[Any, ...]], first: int) -> Block:
        for i, row in enumerate(block):
            if not isinstance(row[0], bytes) or not all(isinstance(v, int | float) for v in row[1:]):
                raise bad(
                    self.name, "a key and numbers in each row", f"something else in row {first + i}", "get it again"
                )
            if not is_utf8(row[0]):
                raise not_utf8(self.name, first + i, row[0])
        values = np.array([row[1:] for row in block], np.float64)
        rows = (values[:, 1:] * self._scale * values[:, :1]).astype(np.float32)
        return rows, [row[0].decode() for row in block]

    def close(self) -> None:
        self._db.close()
        self._reader.close()
