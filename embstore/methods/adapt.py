"""Adaptive embeddings: rows of their own for frequent ids, shared ones for the rest (as in Alibaba's DeepRec)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ._hashing import check_seed, reduce, scramble
from ._signs import SignedTables, signs
from ._trained import random_floats

MOST_ROWS = 2**31
HOT_SHARE = 8  # one of so many parts of a budget


@dataclass(frozen=True)
class Adapt(SignedTables):
    """`table` holds `hot` rows of one id each, then `cold` rows that the other ids share.

    Parameters
    ----------
    hot, cold : rows of each kind; None for a twentieth of the ids. Of a budget hot rows get an eighth: more leave the
        other ids too few rows to be told apart in, fewer lose little (docs/modules.md).
    map : how an id finds its row. "table", a uint32 for each id: one read, the j-th cold id has cold row j mod `cold`.
        "hot_ids", the hot ids in order: 4 bytes a hot id (8 where there are more than 2**32 ids), a binary search,
        cold ids hashed. None for "table", and for the smaller "hot_ids" under a budget.
    seed : of the hash of cold ids.
    table_dtype : see `CodedTables`.
    sign : see `SignedTables`; the pattern of a cold id x is then x // cold and its cold row x mod cold, for both maps.
    """

    id: ClassVar[str] = "adapt"
    shorthand: ClassVar[tuple[str, ...]] = ("hot", "cold")

    hot: int | None = None
    cold: int | None = None
    map: Literal["table", "hot_ids"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("hot", 0), ("cold", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not least <= value <= MOST_ROWS):
                raise ConfigError(
                    f"{name} of adapt must be between {least} and 2**31, found {value!r}; leave it out for a twentieth"
                )
        if self.map not in (None, "table", "hot_ids"):
            raise ConfigError(f"map of adapt must be 'table' or 'hot_ids', found {self.map!r}; choose one of these")
        check_seed(self.id, self.seed)
        super().__post_init__()

    def resolve(self, shape: TableShape) -> Self:
        n = shape.num_embeddings
        share = min(MOST_ROWS, -(-n // 20))
        hot = min(share if self.hot is None else self.hot, n)
        cold = max(1, min(self.cold or share, n))
        return dataclasses.replace(self, hot=hot, cold=cold, map=self.map or "table")

    @property
    def rows(self) -> tuple[int, int]:
        """Hot and cold rows of a resolved config."""
        return self.hot or 0, self.cold or 1

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        hot, cold = self.rows
        table = self.coding.spec("table", hot + cold, shape.embedding_dim)
        if self.map == "hot_ids":
            return table, ArraySpec("hot_ids", _id_dtype(shape), (hot,), "shared")
        return table, ArraySpec("map", "uint32", (shape.num_embeddings,), "rows")

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        n, row = shape.num_embeddings, self.coding.nbytes(shape.embedding_dim)
        by_list = self.map != "table"  # the list is never longer than the table of all ids
        per_hot = row + (np.dtype(_id_dtype(shape)).itemsize if by_list else 0)
        left = nbytes if by_list else nbytes - 4 * n
        least = (self.hot or 0) * per_hot + (self.cold or 1) * row
        if left < least:
            raise BudgetError(
                f"adapt needs at least {nbytes - left + least:,} bytes, its map and one row, found a budget of "
                f"{nbytes:,}; raise it" + ("" if by_list else " or set map='hot_ids'"),
                floor=nbytes - left + least,
            )
        if self.hot is not None:
            hot = self.hot
        elif self.cold is not None:
            hot = (left - self.cold * row) // per_hot
        else:
            hot = min((left - row) // per_hot, left // (HOT_SHARE * per_hot))
        hot = min(hot, n, MOST_ROWS)
        cold = self.cold or max(1, min((left - hot * per_hot) // row, n - hot, MOST_ROWS))
        return dataclasses.replace(self, hot=hot, cold=cold, map="hot_ids" if by_list else "table")

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        hot, cold = self.rows
        if self.map == "hot_ids":
            known = arrays["hot_ids"].astype(np.int64)
            at = np.searchsorted(known, ids)
            found = np.append(known, -1)[at] == ids
            rows = np.where(found, at, hot + self.shared(ids))
        else:
            # A damaged map must not read beyond the table.
            rows = np.minimum(arrays["map"][ids - arrays.start].astype(np.int64), hot + cold - 1)
        out[:] = self.coding.decode(arrays["table"][rows], out.shape[1])
        if self.sign:
            out *= signs(np.where(rows < hot, 0, ids // cold), out.shape[1])

    def shared(self, ids: Ids) -> npt.NDArray[np.int64]:
        """The cold row that each id has where it is not hot, without a map of all ids."""
        cold = self.rows[1]
        return ids % cold if self.sign else reduce(scramble(ids, self.seed), cold)

    def map_of(self, shape: TableShape, hot_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """The map "table" for hot ids in ascending order."""
        hot, cold = self.rows
        is_hot = np.zeros(shape.num_embeddings, bool)
        is_hot[hot_ids] = True
        rows = np.empty(shape.num_embeddings, np.uint32)
        rows[is_hot] = np.arange(hot, dtype=np.uint32)
        # Of signed rows the pattern is known from the id alone, and has to differ within a row.
        counted = np.flatnonzero(~is_hot) if self.sign else np.arange(shape.num_embeddings - hot, dtype=np.int64)
        rows[~is_hot] = hot + counted % cold
        return rows

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        hot, cold = self.rows
        table = self.coding.encode(random_floats(rng, hot + cold, shape.embedding_dim))
        hot_ids = np.sort(rng.choice(shape.num_embeddings, hot, replace=False))
        if self.map == "hot_ids":
            return {"table": table, "hot_ids": hot_ids.astype(_id_dtype(shape))}
        return {"table": table, "map": self.map_of(shape, hot_ids)}


def _id_dtype(shape: TableShape) -> str:
    return "uint32" if shape.num_embeddings <= 2**32 else "uint64"
