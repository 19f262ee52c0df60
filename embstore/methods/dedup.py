"""dedup: equal, or nearly equal, blocks of a table are stored once (Zhou et al., PVLDB 2022, for model serving)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named, RowMethod, Rows, nbytes
from ._leaders import leaders

U32 = npt.NDArray[np.uint32]
# What places may be stored as, and how many blocks that tells apart.
PLACES = {"uint8": 1 << 8, "uint16": 1 << 16, "uint32": 1 << 32}


@dataclass(frozen=True)
class Dedup(RowMethod):
    """Equal rows, or blocks of rows and columns, are stored once, with a map from each place to its block; lossless.

    It pays where a table repeats itself: rows of ids that were never trained, copies under several keys. A table
    without repetition becomes larger by the map, a `place_dtype` a block.

    Parameters
    ----------
    block_rows, block_dims : rows and values of a row in a block; None for whole rows. Rows keep their order: sorting
        them first would take a map of 4 bytes a row, which is what blocks of one row take, and those find every pair.
        Nor did a sort pay for narrower blocks: the genres of the 1,682 films of MovieLens-100K take 19,828 bytes in
        the best blocks as they come, and 21,740 sorted, lexicographically, by first component or by cluster at best.
    tolerance : 0 for blocks of equal bytes only. Above, a block may also be given as an earlier one from which it
        differs by at most `tolerance` times its own length (L2); found by hashing, so some such pairs are missed.
    values : "float32", or "float16": rounded first, then compared.
    limit : bytes not to exceed; the tolerance is raised for it as far as needed. What a budget sets.
    place_dtype : "uint32", or "uint16" or "uint8" where at most 65,536 or 256 blocks are stored: of the map.

    The blocks that are stored are held in memory while a table is made.
    """

    id: ClassVar[str] = "dedup"
    later: ClassVar[tuple[str, ...]] = ("place_dtype",)

    block_rows: int = 1
    block_dims: int | None = None
    tolerance: float = 0.0
    values: Literal["float32", "float16"] = "float32"
    limit: int | None = None
    place_dtype: Literal["uint32", "uint16", "uint8"] = "uint32"

    def __post_init__(self) -> None:
        for name, value in (("block_rows", self.block_rows), ("block_dims", self.block_dims), ("limit", self.limit)):
            if (value is not None or name == "block_rows") and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} of dedup must be a positive integer, found {value!r}; leave it out")
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, (int, float)):
            raise ConfigError(f"tolerance of dedup must be a number, found {self.tolerance!r}; 0 is exact")
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance of dedup must be from 0 to below 1, found {self.tolerance!r}; 0 is exact")
        if self.values not in ("float32", "float16"):
            raise ConfigError(f"values of dedup must be 'float32' or 'float16', found {self.values!r}; choose one")
        if self.place_dtype not in PLACES:
            raise ConfigError(
                f"place_dtype of dedup must be 'uint32', 'uint16' or 'uint8', found {self.place_dtype!r}; choose one"
            )

    def resolve(self, shape: TableShape) -> Self:
        """Cut the block to the table."""
        dims = min(self.block_dims or shape.embedding_dim, shape.embedding_dim)
        rows = min(self.block_rows, max(1, shape.num_embeddings))
        if _cells(shape, rows, dims) >= 2**32:
            raise ConfigError(
                f"dedup tells up to 2**32 blocks apart, found {_cells(shape, rows, dims)}; use larger blocks"
            )
        return dataclasses.replace(self, block_rows=rows, block_dims=dims)

    def _columns(self, dim: int) -> int:
        """Blocks side by side in a row."""
        return -(-dim // (self.block_dims or dim))

    def free_sizes(self, shape: TableShape) -> dict[str, int]:
        """As many blocks as there are places, what a table without repetition needs, or as there is room for."""
        cells = _cells(shape, self.block_rows, self.block_dims or shape.embedding_dim)
        cells = min(cells, PLACES[self.place_dtype])
        if self.limit is None:
            return {"unique": cells}
        none, one = (nbytes(self, shape, unique=count) for count in (0, 1))
        return {"unique": max(min(1, cells), min(cells, (self.limit - none) // (one - none)))}

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n, dim = shape.num_embeddings, shape.embedding_dim
        columns = self._columns(dim)
        blocks = ArraySpec("blocks", self.values, ("unique", self.block_rows, self.block_dims or dim), "shared")
        if self.block_rows == 1:
            return blocks, ArraySpec("place", self.place_dtype, (n, columns), "rows")
        return blocks, ArraySpec("place", self.place_dtype, (-(-n // self.block_rows), columns), "shared")

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """`limit` for the budget; how far it can be kept, only the rows tell."""
        floor = nbytes(self.resolve(shape), shape, unique=1)
        if nbytes_ < floor:
            raise BudgetError(
                f"method 'dedup' needs at least {floor:,} bytes for {shape.num_embeddings:,} x {shape.embedding_dim}, "
                f"found a budget of {nbytes_:,}; raise it or use larger blocks",
                floor=floor,
            )
        return dataclasses.replace(self, limit=nbytes_)

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        """`blocks`, and of every place which of them it is."""
        shape = source.shape
        dim = shape.embedding_dim
        seen: dict[bytes, int] = {}
        places = []
        width = self.block_rows * (self.block_dims or dim)
        for cut in self._cut(source):
            raw = cut.view(f"V{cut.itemsize * width}").reshape(-1).tolist()
            # `len` is taken before the block is put in, so it is the number of the next one.
            places.append(np.array([seen.setdefault(block, len(seen)) for block in raw], np.uint32))
        blocks = np.frombuffer(b"".join(seen), self.values).reshape(-1, width)
        seen.clear()
        place = np.concatenate([np.zeros(0, np.uint32), *places])
        blocks, merged = self._merged(blocks, shape, rng)
        place = merged[place].astype(self.place_dtype).reshape(-1, self._columns(dim))
        return {
            "blocks": blocks.reshape(-1, self.block_rows, self.block_dims or dim),
            "_place" if self.block_rows == 1 else "place": place,
        }

    def _cut(self, source: Rows) -> Iterator[npt.NDArray[Any]]:
        """Blocks as rows of values, in the order of their places; those at the edges are padded with zeros."""
        dim, size = source.shape.embedding_dim, self.block_rows
        width = self.block_dims or dim
        columns = self._columns(dim)
        rest = np.zeros((0, columns * width), self.values)

        def cut(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            parts = rows.reshape(-1, size, columns, width).transpose(0, 2, 1, 3)
            return np.ascontiguousarray(parts).reshape(-1, size * width)

        for rows in source.blocks():
            with np.errstate(over="ignore"):
                stored = rows.astype(self.values)
            self._check(stored, rows)
            padded = np.pad(stored, ((0, 0), (0, columns * width - dim)))
            whole = np.concatenate([rest, padded]) if len(rest) else padded
            end = len(whole) // size * size
            if end:
                yield cut(whole[:end])
            rest = whole[end:]
        if len(rest):
            yield cut(np.pad(rest, ((0, size - len(rest)), (0, 0))))

    def _check(self, stored: npt.NDArray[Any], rows: FloatRows) -> None:
        if self.values == "float16" and np.isinf(stored).any():
            lost = np.isinf(stored) & np.isfinite(rows)
            if lost.any():
                raise ConfigError(
                    f"values of dedup are float16 and at most 65504, found {rows[lost][0]:g}; use values='float32'"
                )

    def _merged(
        self, blocks: npt.NDArray[Any], shape: TableShape, rng: np.random.Generator
    ) -> tuple[npt.NDArray[Any], U32]:
        """The blocks that are kept, and for each given one which of them it becomes."""
        seed = int(rng.integers(2**63))
        ladder = [t for t in (0.0, *(0.01 * 1.25**i for i in range(21))) if t > self.tolerance]
        for tolerance in itertools.chain([self.tolerance], ladder if self.limit else ()):
            if tolerance == 0:
                kept, merged = np.arange(len(blocks)), np.arange(len(blocks), dtype=np.uint32)
            else:
                kept, merged = leaders(blocks.astype(np.float32), tolerance, np.random.default_rng(seed))
            size, most = nbytes(self, shape, unique=len(kept)), PLACES[self.place_dtype]
            if len(kept) <= most and (self.limit is None or size <= self.limit):
                return blocks[kept], merged
        if len(kept) > most:
            raise ConfigError(
                f"place_dtype {self.place_dtype!r} of dedup tells {most:,} blocks apart, found {len(kept):,}; use a "
                "wider one"
            )
        raise BudgetError(
            f"dedup needs {size:,} bytes even at a tolerance of {tolerance:.2f}, found a budget of {self.limit:,}; "
            "raise it or choose another method"
        )

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        return {"place": shared["_place"][ids]} if self.block_rows == 1 else {}

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        dim, size = out.shape[1], self.block_rows
        place = arrays["place"][ids - arrays.start if size == 1 else ids // size]
        blocks = arrays["blocks"]
        out[:] = blocks[place, (ids % size)[:, None]].reshape(len(ids), place.shape[1] * blocks.shape[2])[:, :dim]


def _cells(shape: TableShape, rows: int, dims: int) -> int:
    """Blocks of a table, those at its edges included."""
    return -(-shape.num_embeddings // rows) * -(-shape.embedding_dim // dims)
