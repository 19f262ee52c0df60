"""Back from a compressed table to the files other programs read: npy, safetensors, word2vec, parquet, FAISS.

Rows are decoded a block at a time, so memory does not grow with the table; a FAISS index takes the codes as they are.
A file is written beside its destination, fsynced and renamed: the destination is the old file or the whole new one.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import numpy as np

from .errors import ConfigError, DestinationExistsError, NoKeysError, StorageError

if TYPE_CHECKING:
    from .method import FloatRows
    from .table import Table

Progress = Callable[[int, int], None]
Blocks = Iterator["tuple[int, FloatRows]"]

FORMATS: Final = ("npy", "safetensors", "word2vec", "word2vec-binary", "parquet", "faiss")

_SUFFIXES: Final = {
    ".npy": "npy",
    ".safetensors": "safetensors",
    ".txt": "word2vec",
    ".vec": "word2vec",
    ".bin": "word2vec-binary",
    ".parquet": "parquet",
    ".faiss": "faiss",
}
_BLOCK_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export` wrote: `rows` of `dims` in `nbytes` bytes at `path`; `keys` are the keys written with them."""

    path: str
    format: str
    rows: int
    dims: int
    keys: int
    nbytes: int


def format_of(path: str | os.PathLike[str]) -> str:
    """The format a file name asks for; `ConfigError` lists the suffixes."""
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(
            f"the export destination must end in {', '.join(_SUFFIXES)}, found {Path(path).name!r}; "
            "rename it or name the format"
        )
    return _SUFFIXES[suffix]


def export(
    table: Table,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    name: str = "embeddings",
    keys_path: str | os.PathLike[str] | None = None,
    metric: Literal["l2", "ip"] = "l2",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the decoded rows of `table` to `path`; to a FAISS index its codes.

    Parameters
    ----------
    format : one of `FORMATS`; taken from the suffix of `path` when None.
    name : name of the tensor in a safetensors file, of the column of vectors in parquet.
    keys_path : also write the keys there, one a line in row order: what ``compress(…, keys=path)`` reads.
    metric : what a FAISS index searches by, "l2" or "ip".
    overwrite : replace existing files.
    progress : called with (rows written, rows in all) after each block; not for a FAISS index.

    Notes
    -----
    ``npy`` and ``safetensors`` hold float32 (rows, dims) and no keys (see `keys_path`). ``word2vec`` and
    ``word2vec-binary`` hold the rows that have keys; of a table without keys, all rows under their ids. ``parquet``
    has a column ``key`` (null for rows beyond the last key; absent without keys) and a fixed-size list of float32.
    ``faiss`` holds the table's codes, without keys, in memory until they are written; see `embstore.to_faiss`.

    Raises
    ------
    DestinationExistsError : a destination exists and `overwrite` is false.
    ConfigError : unknown format or suffix, a key that the format cannot hold, codes that FAISS cannot.
    NoKeysError : `keys_path` was given and the table has none.
    StorageError : a file could not be written; nothing is left of it.
    """
    chosen = format or format_of(path)
    if chosen not in FORMATS:
        raise ConfigError(
            f"the export format must be one of {', '.join(FORMATS)}, found {chosen!r}; choose one of these"
        )
    keys = 0 if table.keys is None else len(table.keys)
    rows = table.num_embeddings
    if chosen.startswith("word2vec"):
        rows = keys if table.keys is not None else rows
    if chosen in ("npy", "safetensors", "faiss"):
        keys = 0
    blocks = _blocks(table, rows, progress)
    with _published(path, overwrite) as beside, _published(keys_path, overwrite) as keys_beside:
        if keys_beside is not None:
            _write_keys(keys_beside, table)
        assert beside is not None
        if chosen == "parquet":
            _write_parquet(beside, table, blocks, name)
        elif chosen == "faiss":
            from .exchange import write_faiss

            write_faiss(table, beside, metric)
        else:
            with open(beside, "wb") as file:
                if chosen == "npy":
                    _write_npy(file, table, blocks)
                elif chosen == "safetensors":
                    _write_safetensors(file, table, blocks, name)
                else:
                    _write_word2vec(file, table, blocks, rows, binary=chosen == "word2vec-binary")
    return Exported(os.fspath(path), chosen, rows, table.embedding_dim, keys, os.stat(path).st_size)


def _write_keys(path: Path, table: Table) -> None:
    if table.keys is None:
        raise NoKeysError("the table has no keys to export; its rows have ids only")
    with open(path, "wb") as file:
        for row, key in enumerate(table.keys):
            word = str(key)
            if "\n" in word or "\r" in word:
                raise ConfigError(
                    f"key {word!r} of row {row} holds a line break, which a list of one key a line cannot; "
                    "export to parquet instead"
                )
            file.write(word.encode() + b"\n")


@contextmanager
def _published(path: str | os.PathLike[str] | None, overwrite: bool) -> Iterator[Path | None]:
    """A path beside the destination, renamed to it on success and removed on failure; None for None."""
    if path is None:
        yield None
        return
    target = Path(path)

    def refuse_existing() -> None:
        if target.is_dir():
            raise DestinationExistsError(f"the destination {target.name!r} is a directory; give the name of a file")
        if not overwrite and os.path.lexists(target):
            raise DestinationExistsError(
                f"the destination {target.name!r} exists; choose another name, or pass overwrite=True"
            )

    refuse_existing()
    if not target.parent.is_dir():
        raise StorageError(f"the directory {str(target.parent)!r} of the destination does not exist; make it first")
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        refuse_existing()
        os.replace(beside, target)
    except OSError as error:
        if isinstance(error, DestinationExistsError) or not _writing_failed(error, beside, target):
            raise
        raise StorageError(
            error.errno or 5,
            f"{target.name!r} could not be written ({error.strerror or error}); nothing was left there: "
            "free space or choose another destination",
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _writing_failed(error: OSError, *paths: Path) -> bool:
    """Whether the error is of writing, not of reading the table."""
    from .errors import EmbstoreError

    if isinstance(error, EmbstoreError):
        return False
    return error.filename is None or os.fspath(error.filename) in {os.fspath(p) for p in paths}


def _blocks(table: Table, rows: int, progress: Progress | None) -> Blocks:
    """(first row, decoded rows) of the first `rows` rows, in order."""
    done = 0
    step = max(1, _BLOCK_BYTES // (4 * table.embedding_dim))
    for block in table.blocks(step) if rows else ():
        block = block[: rows - done]
        yield done, np.ascontiguousarray(block, "<f4")
        done += len(block)
        if progress is not None:
            progress(done, rows)
        if done == rows:
            return


def _write_npy(file: BinaryIO, table: Table, blocks: Blocks) -> None:
    shape = (table.num_embeddings, table.embedding_dim)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for _, rows in blocks:
        file.write(rows.data)


def _write_safetensors(file: BinaryIO, table: Table, blocks: Blocks, name: str) -> None:
    shape = [table.num_embeddings, table.embedding_dim]
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
    header = json.dumps({name: tensor}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(struct.pack("<Q", len(header)) + header)
    for _, rows in blocks:
        file.write(rows.data)


def _words(table: Table, start: int, stop: int) -> list[bytes]:
    if table.keys is None:
        return [str(row).encode() for row in range(start, stop)]
    words = [str(key).encode() for key in table.keys[start:stop]]
    for row, word in enumerate(words, start):
        # word2vec files have no escapes: what its readers split at cannot be part of a word.
        if word.split() != [word]:
            raise ConfigError(
                f"key {word.decode()!r} of row {row} is empty or holds white space, which a word2vec file cannot; "
                "export to parquet instead"
            )
    return words


def _write_word2vec(file: BinaryIO, table: Table, blocks: Blocks, rows: int, *, binary: bool) -> None:
    dim = table.embedding_dim
    file.write(f"{rows} {dim}\n".encode())
    # Nine significant digits give every float32 back exactly.
    line = " ".join(["%.9g"] * dim)
    for start, block in blocks:
        for word, row in zip(_words(table, start, start + len(block)), block, strict=True):
            values = row.tobytes() if binary else (line % tuple(row.tolist())).encode()
            file.write(word + b" " + values + b"\n")


def _write_parquet(path: Path, table: Table, blocks: Blocks, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), table.embedding_dim)
    fields: list[Any] = []
    keys = table.keys
    if keys is not None:
        fields.append(pa.field("key", pa.string() if keys.type == "string" else pa.int64()))
    fields.append(pa.field(name, vector, nullable=False))
    schema = pa.schema(fields)
    with pq.ParquetWriter(os.fspath(path), schema) as writer:
        for start, rows in blocks:
            columns = []
            if keys is not None:
                some = list(keys[start : start + len(rows)])
                columns.append(pa.array(some + [None] * (len(rows) - len(some)), fields[0].type))
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), type=vector))
            writer.write_batch(pa.record_batch(columns, schema=schema))
