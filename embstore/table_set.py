"""Several tables of one model in one directory: the fields of a recommender, looked up together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import CorruptionError, IdTypeError, ShapeError
from .format.table_set import Entry, SetWriter, read_set
from .table import Table
from .table import open as open_table

if TYPE_CHECKING:
    from .format.verify import Fault


def make_set(
    path: str | os.PathLike[str], makers: Mapping[str, Callable[[str], Any]], *, overwrite: bool = False
) -> TableSet:
    """Make several tables in one directory, which appears whole or not at all, and open it.

    Parameters
    ----------
    path : destination directory.
    makers : for each name, in order, what makes its table at the path it is called with:
        ``{"user": lambda path: embstore.compress(users, path, "int8")}``.
    overwrite : replace an embstore table or set at `path`.

    Raises `DestinationExistsError` before any work, `StorageError`, `BusyError`, and what the makers raise.
    """
    with SetWriter(path, overwrite) as writer:
        for name, make in makers.items():
            make(writer.path_of(name))
        writer.finish()
    return open_set(path)


def open_set(path: str | os.PathLike[str], mmap: bool = True) -> TableSet:
    """Open a set of tables.

    Parameters
    ----------
    path : directory of the set.
    mmap : as in `open`, for every table.

    Raises `TableNotFoundError`, `FormatError`, `FormatVersionError`, `CorruptionError`, also where a table is not the
    one that the set was made with.
    """
    path = os.path.abspath(path)
    return TableSet(path, read_set(path), mmap)


class TableSet(Mapping[str, Table]):
    """Tables by name, in the order they were made. Made by `open_set`, `make_set` and a `FieldEmbedding`'s export."""

    def __init__(self, path: str, entries: tuple[Entry, ...], mmap: bool = True) -> None:
        self.path = path
        self._tables: dict[str, Table] = {}
        for entry in entries:
            table = open_table(os.path.join(path, entry.path), mmap)
            if table.metadata["digest"] != entry.digest:
                raise CorruptionError(
                    f"table {entry.name!r} of set {os.path.basename(path)!r} is not the one the set was made with; "
                    "restore it from a copy or make the set again"
                )
            self._tables[entry.name] = table

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def nbytes(self) -> int:
        """Bytes that lookups by id need, of all tables."""
        return sum(table.nbytes for table in self.values())

    def lookup(self, ids: npt.ArrayLike, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """One row of each table for each line of `ids`, side by side.

        Parameters
        ----------
        ids : (n, tables) integers, column i the ids within the i-th table.
        out : C-contiguous float32 (n, sum of the tables' embedding_dim) to fill; by default a new array. Where all have
            one embedding_dim, ``out.reshape(n, tables, embedding_dim)`` is what an interaction layer takes.

        Raises `ShapeError`, `IdTypeError`, `IdRangeError`.
        """
        wanted = np.asarray(ids)
        if wanted.dtype.kind not in "iu":
            raise IdTypeError(f"ids must be integers, found {wanted.dtype}; convert them")
        if wanted.ndim != 2 or wanted.shape[1] != len(self):
            raise ShapeError(f"ids must have shape (n, {len(self)}), a column a table, found {wanted.shape}")
        width = sum(table.embedding_dim for table in self.values())
        if out is None:
            out = np.empty((len(wanted), width), np.float32)
        elif out.shape != (len(wanted), width) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ShapeError(
                f"out must be C-contiguous float32 of shape {(len(wanted), width)}, found {out.dtype} of {out.shape}"
            )
        first = 0
        for i, table in enumerate(self.values()):
            last = first + table.embedding_dim
            out[:, first:last] = table.lookup(wanted[:, i])
            first = last
        return out

    def verify(self) -> list[Fault]:
        """Every stored byte of every table held against its checksum; an empty list means all is well."""
        return [fault for table in self.values() for fault in table.verify()]

    def __repr__(self) -> str:
        return f"<embstore.TableSet {', '.join(self)}: {self.nbytes:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_set, (self.path,)
