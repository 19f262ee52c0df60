"""Parquet, Arrow IPC (file and stream), Feather, and Arrow tables from Python."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ._io import FileReader, as_float32, bad, pick, table_shape
from ._source import BaseSource, Block, first_line
from .base import KeyType
from .keys import from_arrow

Batches = Callable[[list[str], int], Iterator[Any]]


class ArrowSource(BaseSource):
    """A column of vectors and, where there is one, a column of keys.

    Keys are the column `key_column`, else the column named "key", else the only column of strings.
    """

    def __init__(
        self,
        name: str,
        format: str,
        schema: Any,
        rows: int,
        batches: Batches,
        column: str | None,
        key_column: str | None,
        fingerprint: str,
    ) -> None:
        self._batches = batches
        self._schema = schema
        self.name = name
        self._column = pick(name, "column of vectors", _shapes(schema), column)
        self._key_column = _key_column(name, schema, key_column)
        value = vector_type(schema.field(self._column).type)
        if value is None:
            found = schema.field(self._column).type
            raise bad(name, f"lists of numbers in column {self._column!r}", found, "choose another column by name")
        if not rows:
            raise bad(name, "at least one row", "none", "check the file")
        dims = self._dims(schema)
        mark = f"{fingerprint}-{self._column}-{self._key_column}"
        super().__init__(name, format, table_shape(name, rows, dims), str(value), mark)
        if self._key_column is not None:
            self.key_type = _key_type(schema.field(self._key_column).type)
            self.num_keys = rows if self.key_type else 0

    def _dims(self, schema: Any) -> int:
        import pyarrow as pa

        kind = _storage(schema.field(self._column).type)
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in self._read([self._column], 1):
            if len(batch):
                first = batch.column(0)[0]
                if not first.is_valid or not len(first):
                    raise bad(self.name, "a vector in each row", "none in row 0", "drop that row")
                return len(first)
        raise bad(self.name, "at least one row", "none", "check the file")

    def _read(self, columns: list[str], max_rows: int) -> Iterator[Any]:
        import pyarrow as pa

        try:
            for batch in self._batches(columns, max_rows):
                # Offsets in a damaged file could point anywhere.
                batch.validate(full=True)
                yield batch
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            raise bad(self.name, f"undamaged {self.format_name}", first_line(error), "get the file again") from None

    @property
    def format_name(self) -> str:
        return getattr(self, "format", "Arrow data")

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        with_keys = self._key_column is not None and self._keys is None
        columns = [self._column, *([self._key_column] if with_keys and self._key_column else [])]
        at = 0
        for whole in self._read(columns, max_rows):
            skip = min(max(start - at, 0), len(whole))
            for lo in range(skip, len(whole), max_rows):
                batch = whole.slice(lo, max_rows)
                rows = self._vectors(batch.column(self._column), at + lo)
                keys = None
                if with_keys and self._key_column:
                    what = f"keys of {self.name!r} from row {at + lo} on"
                    keys = from_arrow(batch.column(self._key_column), what).cursor(0)(len(batch))
                yield rows, keys
            at += len(whole)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A column of numbers, nulls as NaN; `KeyError` when there is no such column."""
        import pyarrow as pa

        if column not in self._schema.names:
            raise KeyError(column)
        kind = self._schema.field(column).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise bad(self.name, f"numbers in column {column!r}", kind, "choose another")
        parts = [b.column(0).to_numpy(zero_copy_only=False).astype(np.float64) for b in self._read([column], 1 << 16)]
        return np.concatenate(parts)

    def _vectors(self, column: Any, first: int) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        dims = self.shape.embedding_dim
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if not pa.types.is_fixed_size_list(column.type):
            sizes = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
            self._refuse(sizes != dims, first, lambda i: "null" if sizes[i] < 0 else f"{sizes[i]} values")
        elif column.null_count:
            self._refuse(pc.is_null(column).to_numpy(zero_copy_only=False), first, lambda _: "null")
        values = column.flatten()
        if values.null_count:
            nulls = pc.is_null(values).to_numpy(zero_copy_only=False).reshape(-1, dims).any(axis=1)
            self._refuse(nulls, first, lambda _: "a null value")
        return as_float32(values.to_numpy(zero_copy_only=False).reshape(-1, dims))

    def _refuse(self, wrong: Any, first: int, found: Callable[[int], str]) -> None:
        if wrong.any():
            i = int(np.argmax(wrong))
            dims = self.shape.embedding_dim
            raise bad(self.name, f"{dims} values in each row", f"{found(i)} in row {first + i}", "fix or drop that row")


class TableSource(ArrowSource):
    """An Arrow table in memory."""

    def __init__(self, table: Any, column: str | None, key_column: str | None) -> None:
        def batches(columns: list[str], max_rows: int) -> Iterator[Any]:
            return iter(table.select(columns).to_batches(max_chunksize=max_rows))

        self._table = table
        super().__init__("table", "arrow", table.schema, table.num_rows, batches, column, key_column, "")
        self._digest = ""

    @property
    def fingerprint(self) -> str:
        if not self._digest:
            digest = hashlib.blake2b(digest_size=16)
            for chunk in self.chunks(4096):
                digest.update(chunk.rows.data)
                digest.update(repr(chunk.keys).encode("utf-8", "surrogatepass") if chunk.keys is not None else b"")
            self._digest = digest.hexdigest()
        return self._digest + self._fingerprint


def open_table(table: Any, column: str | None, key_column: str | None) -> BaseSource:
    """An Arrow table or record batch."""
    import pyarrow as pa

    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    return TableSource(table, column, key_column)


def open_parquet(reader: FileReader, column: str | None, key_column: str | None) -> BaseSource:
    """A Parquet file, read batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def opened() -> Any:
        # Buffered pages keep memory below a row group.
        return pq.ParquetFile(reader.path, pre_buffer=False, buffer_size=1 << 20)

    try:
        with opened() as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise bad(reader.name, "a whole Parquet file", first_line(error), "get the file again") from None

    def batches(columns: list[str], max_rows: int) -> Iterator[Any]:
        with opened() as file:
            yield from file.iter_batches(batch_size=min(max_rows, 1 << 16), columns=columns, use_threads=False)

    return ArrowSource(reader.name, "parquet", schema, rows, batches, column, key_column, reader.fingerprint)


def open_ipc(reader: FileReader, column: str | None, key_column: str | None) -> BaseSource:
    """An Arrow IPC file (Feather 2) or stream; record batches are mapped one after another."""
    import pyarrow as pa

    stream = reader.head(6) != b"ARROW1"

    def opened(source: Any) -> Any:
        return pa.ipc.open_stream(source) if stream else pa.ipc.open_file(source)

    try:
        with pa.memory_map(str(reader.path)) as source:
            file = opened(source)
            schema = file.schema
            read = file if stream else map(file.get_batch, range(file.num_record_batches))
            rows = sum(len(batch) for batch in read)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise bad(reader.name, "a whole Arrow file", first_line(error), "get the file again") from None

    def batches(columns: list[str], max_rows: int) -> Iterator[Any]:
        with pa.memory_map(str(reader.path)) as source:
            file = opened(source)
            for batch in file if stream else map(file.get_batch, range(file.num_record_batches)):
                yield batch.select(columns)

    return ArrowSource(reader.name, "arrow", schema, rows, batches, column, key_column, reader.fingerprint)


def _storage(kind: Any) -> Any:
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def vector_type(kind: Any) -> Any:
    """The number type of a column of vectors, or None."""
    import pyarrow as pa

    kind = _storage(kind)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    value = kind.value_type
    return value if pa.types.is_floating(value) or pa.types.is_integer(value) else None


def _shapes(schema: Any) -> dict[str, tuple[str, ...]]:
    # Columns have no sizes; two entries stand for "vectors" and one for anything else.
    return {f.name: ("rows", str(f.type)) if vector_type(f.type) else (str(f.type),) for f in schema}


def _key_type(kind: Any) -> KeyType | None:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "int64"
    return (
        "string"
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        else None
    )


def _key_column(name: str, schema: Any, wanted: str | None) -> str | None:
    if wanted is not None:
        pick(name, "key column", {f.name: (str(f.type),) for f in schema}, wanted, ndim=1)
        if _key_type(schema.field(wanted).type) is None:
            raise bad(
                name, f"strings or integers in key column {wanted!r}", schema.field(wanted).type, "choose another"
            )
        return wanted
    if "key" in schema.names and _key_type(schema.field("key").type):
        return "key"
    texts = [f.name for f in schema if _key_type(f.type) == "string"]
    return texts[0] if len(texts) == 1 else None
