"""MEmCom (Pansare et al., MLSys 2022): a hashed row, made the id's own by one or two trained numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ._signs import SignedTables, signs
from ._trained import random_floats


@dataclass(frozen=True)
class Memcom(SignedTables):
    """Row x is row x mod `rows` of a shared table times a weight of x, plus a bias of x where `bias` is set.

    Parameters
    ----------
    rows : rows of the shared table; None for a tenth of the ids.
    bias : a bias for each id too, for 4 more bytes a row.
    table_dtype : see `CodedTables`.
    sign : see `SignedTables`; the pattern of x is x // rows.
    """

    id: ClassVar[str] = "memcom"
    shorthand: ClassVar[tuple[str, ...]] = ("rows",)

    rows: int | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        if self.rows is not None and (type(self.rows) is not int or not 1 <= self.rows <= 2**40):
            raise ConfigError(
                f"rows of memcom must be between 1 and 2**40, found {self.rows!r}; leave it out for a tenth"
            )
        if not isinstance(self.bias, bool):
            raise ConfigError(f"bias of memcom must be true or false, found {self.bias!r}; choose one")
        super().__post_init__()

    def resolve(self, shape: TableShape) -> Self:
        rows = self.rows or -(-shape.num_embeddings // 10)
        return dataclasses.replace(self, rows=max(1, min(rows, shape.num_embeddings)))

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        table = self.coding.spec("table", self.rows or 1, shape.embedding_dim)
        weight = ArraySpec("weight", "float32", (shape.num_embeddings,), "rows")
        if not self.bias:
            return table, weight
        return table, weight, ArraySpec("bias", "float32", (shape.num_embeddings,), "rows")

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        own = 4 * shape.num_embeddings * (1 + self.bias)
        row = self.coding.nbytes(shape.embedding_dim)
        if nbytes < own + row * (self.rows or 1):
            floor = own + row * (self.rows or 1)
            raise BudgetError(
                f"memcom needs at least {floor:,} bytes, {1 + self.bias} float32 for each of {shape.num_embeddings:,} "
                f"ids and the shared rows, found a budget of {nbytes:,}; raise it or choose hash",
                floor=floor,
            )
        return dataclasses.replace(self, rows=self.rows or (nbytes - own) // row)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        out[:] = self.coding.decode(arrays["table"][ids % (self.rows or 1)], out.shape[1])
        if self.sign:
            np.multiply(out, signs(ids // (self.rows or 1), out.shape[1]), out=out)
        np.multiply(out, arrays["weight"][ids - arrays.start, None], out=out)
        if self.bias:
            np.add(out, arrays["bias"][ids - arrays.start, None], out=out)

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        own = {s.name: random_floats(rng, *s.sizes()) for s in self.layout(shape) if s.name != "table"}
        return own | {"table": self.coding.encode(random_floats(rng, self.rows or 1, shape.embedding_dim))}
