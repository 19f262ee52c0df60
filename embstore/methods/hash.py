"""The hashing trick: rows share the rows of a smaller table (Weinberger et al., ICML 2009)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ._hashing import LOWEST, check_seed, reduce, scramble
from ._signs import SignedTables, signs
from ._trained import random_floats


@dataclass(frozen=True)
class Hash(SignedTables):
    """Row x is row h(x) of a table of `rows` rows, times signs of x where `sign` is set; colliding ids share it.

    Parameters
    ----------
    rows : rows stored; None for a tenth of the ids.
    hash : "mod", x mod rows, which keeps neighbours apart; or "mix", a seeded 64-bit hash, for ids that follow a
        pattern.
    seed : of "mix".
    table_dtype : see `CodedTables`.
    sign : see `SignedTables`; the pattern of x is x // rows, or of "mix" the hash's lowest 32 bits.
    """

    id: ClassVar[str] = "hash"
    shorthand: ClassVar[tuple[str, ...]] = ("rows",)

    rows: int | None = None
    hash: Literal["mod", "mix"] = "mod"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows is not None and (type(self.rows) is not int or not 1 <= self.rows <= 2**31):
            raise ConfigError(
                f"rows of hash must be between 1 and 2**31, found {self.rows!r}; leave it out for a tenth"
            )
        if self.hash not in ("mod", "mix"):
            raise ConfigError(f"hash of hash must be 'mod' or 'mix', found {self.hash!r}; choose one of these")
        check_seed(self.id, self.seed)
        super().__post_init__()

    def resolve(self, shape: TableShape) -> Self:
        rows = self.rows or min(2**31, max(1, -(-shape.num_embeddings // 10)))
        return dataclasses.replace(self, rows=min(rows, max(1, shape.num_embeddings)))

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        return (self.coding.spec("table", self.rows or 1, shape.embedding_dim),)

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        rows = nbytes // self.coding.nbytes(shape.embedding_dim)
        if rows < 1:
            floor = self.coding.nbytes(shape.embedding_dim)
            raise BudgetError(
                f"hash needs at least {floor:,} bytes, one row, found a budget of {nbytes:,}; raise it", floor=floor
            )
        return dataclasses.replace(self, rows=min(rows, 2**31))

    def buckets(self, ids: Ids) -> npt.NDArray[np.int64]:
        """The stored row of each id."""
        assert self.rows is not None
        return ids % self.rows if self.hash == "mod" else reduce(scramble(ids, self.seed), self.rows)

    def patterns(self, ids: Ids) -> npt.NDArray[np.int64]:
        """The number that tells an id apart from those of its row."""
        assert self.rows is not None
        return ids // self.rows if self.hash == "mod" else (scramble(ids, self.seed) & LOWEST).astype(np.int64)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        out[:] = self.coding.decode(arrays["table"][self.buckets(ids)], out.shape[1])
        if self.sign:
            out *= signs(self.patterns(ids), out.shape[1])

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        return {"table": self.coding.encode(random_floats(rng, self.rows or 1, shape.embedding_dim))}
