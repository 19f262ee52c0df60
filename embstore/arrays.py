"""What a compressed table is made of: named arrays, each with one partition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .errors import ShapeError

Partition = Literal["rows", "shared", "ragged"]

DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32", "uint64", "int64", "float64")


@dataclass(frozen=True, slots=True)
class TableShape:
    """The shape of the table a method stands for: `num_embeddings` rows of `embedding_dim` values."""

    num_embeddings: int
    embedding_dim: int

    def __post_init__(self) -> None:
        if self.num_embeddings < 0 or self.num_embeddings > 2**40:
            raise ShapeError(
                f"num_embeddings must be between 0 and 2**40, found {self.num_embeddings}; split larger tables"
            )
        if self.embedding_dim < 1 or self.embedding_dim > 2**20:
            raise ShapeError(
                f"embedding_dim must be between 1 and 2**20, found {self.embedding_dim}; check the source's shape"
            )

    def __str__(self) -> str:
        return f"{self.num_embeddings:,} x {self.embedding_dim}"

    @property
    def nbytes_float32(self) -> int:
        """Bytes of the same table in float32, the size ratios are taken against."""
        return 4 * self.num_embeddings * self.embedding_dim


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One stored array.

    Parameters
    ----------
    name : identifier, unique within a table.
    dtype : one of `DTYPES`; stored little endian.
    shape : sizes; a `rows` array has `num_embeddings` as its first. A string is a free dimension
        whose size depends on the data.
    partition : `rows` (axis 0 is the row id, cut into shards), `shared` (one copy for the table, made by `fit`) or
        `ragged` (one copy too, but made row by row: `encode` gives the next items, axis 0 is a free dimension).
    starts : of a ragged array, the rows array that says where a row's items begin. `encode` counts from the first row
        it was given, the writer from the first of the table.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    partition: Partition
    starts: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ShapeError(f"array name must be an identifier, found {self.name!r}")
        if self.dtype not in DTYPES:
            raise ShapeError(f"array {self.name!r} must have a dtype of {', '.join(DTYPES)}, found {self.dtype!r}")
        if self.partition == "rows" and (not self.shape or isinstance(self.shape[0], str)):
            raise ShapeError(f"rows array {self.name!r} must have num_embeddings as its first size, found {self.shape}")
        if self.partition == "ragged" and (not self.shape or not isinstance(self.shape[0], str)):
            raise ShapeError(f"ragged array {self.name!r} must have a free dimension first, found {self.shape}")

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    def sizes(self, **free: int) -> tuple[int, ...]:
        """The shape with every free dimension replaced by its size."""
        return tuple(free[s] if isinstance(s, str) else s for s in self.shape)

    def nbytes(self, **free: int) -> int:
        """Bytes of the whole array, without padding."""
        return self.itemsize * math.prod(self.sizes(**free))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of a `rows` array."""
        return tuple(int(s) for s in self.shape[1:])

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row of a `rows` array."""
        return self.itemsize * math.prod(self.row_shape)


class Arrays(Mapping[str, npt.NDArray[np.generic]]):
    """Named arrays of one shard (or of a whole table), with the id of its first row in `start`."""

    __slots__ = ("_arrays", "start")

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.generic]], start: int = 0) -> None:
        self._arrays = dict(arrays)
        self.start = start

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def check(
    specs: tuple[ArraySpec, ...],
    arrays: Mapping[str, npt.NDArray[np.generic]],
    *,
    partition: Partition,
    rows: int | None = None,
) -> dict[str, int]:
    """Hold `arrays` against the specs of one partition; `rows` is the expected first size of `rows` arrays.

    Ragged arrays count as `rows`: `encode` makes both.

    Returns the sizes of free dimensions. Raises `ShapeError` naming the first array that differs.
    """
    free: dict[str, int] = {}
    expected = {s.name: s for s in specs if (s.partition == "shared") == (partition == "shared")}
    if set(arrays) != set(expected):
        raise ShapeError(
            f"{partition} arrays must be {sorted(expected)}, found {sorted(arrays)}; return what layout names"
        )
    for name, spec in expected.items():
        array = arrays[name]
        want = spec.shape if rows is None or spec.partition != "rows" else (rows, *spec.shape[1:])
        same = array.ndim == len(want) and all(
            free.setdefault(w, n) == n if isinstance(w, str) else w == n for w, n in zip(want, array.shape, strict=True)
        )
        if not same or array.dtype != np.dtype(spec.dtype):
            raise ShapeError(
                f"array {name!r} must be {spec.dtype} of shape {want}, found {array.dtype} of shape {array.shape}"
            )
    return free


def fits(layout: tuple[ArraySpec, ...], stored: tuple[ArraySpec, ...]) -> bool:
    """Whether stored arrays are those of a layout, a free dimension being of one size wherever it is named.

    A ragged array is stored as a shared one: how it was made no longer matters.
    """
    free: dict[str, int | str] = {}

    def same(a: ArraySpec, b: ArraySpec) -> bool:
        if (a.name, a.dtype, len(a.shape)) != (b.name, b.dtype, len(b.shape)):
            return False
        if (a.partition == "rows") != (b.partition == "rows"):
            return False
        pairs = zip(a.shape, b.shape, strict=True)
        return all(free.setdefault(x, y) == y if isinstance(x, str) else x == y for x, y in pairs)

    return len(layout) == len(stored) and all(same(a, b) for a, b in zip(layout, stored, strict=True))
