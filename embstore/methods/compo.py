"""Compositional embeddings, the quotient-remainder trick (Shi, Mudigere, Naumov, Yang, KDD 2020, arXiv 1909.02107)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ._table_rows import CodedTables
from ._trained import random_floats

MOST_PARTITIONS = 4


@dataclass(frozen=True)
class Compo(CodedTables):
    """Row x is composed of one row of each of k small tables, which the digits of x choose: no two ids share them all.

    Digit i of x is floor(x / c^i) mod c for i < k - 1, and floor(x / c^(k-1)) for the last, c being `collisions`. With
    k = 2 they are remainder and quotient.

    Parameters
    ----------
    op : "multiply" or "add" rows of embedding_dim values, table 0 first; or "concat", in which table i gives the i-th
        part of the row, the first parts one value longer where embedding_dim is no multiple of k.
    partitions : k, 1 to 4; None for 2, or for the fewest that reach a budget. At most embedding_dim for "concat".
    collisions : c, the rows of each table but the last; None for as many bytes as a tenth of the full table, or for the
        smallest tables there are. Of two tables the first is the larger then, whose rows are spent one by one: of a
        field of 3,260 rows half the bytes hold 1,627 + 3 rows, while c = 3 would be the fewest, of 1,090 rows.
    table_dtype : see `CodedTables`.
    """

    id: ClassVar[str] = "compo"
    shorthand: ClassVar[tuple[str, ...]] = ("partitions",)

    op: Literal["multiply", "add", "concat"] = "multiply"
    partitions: int | None = None
    collisions: int | None = None

    def __post_init__(self) -> None:
        if self.op not in ("multiply", "add", "concat"):
            raise ConfigError(f"op of compo must be 'multiply', 'add' or 'concat', found {self.op!r}; choose one")
        if self.partitions is not None and (
            type(self.partitions) is not int or not 1 <= self.partitions <= MOST_PARTITIONS
        ):
            raise ConfigError(
                f"partitions of compo must be from 1 to {MOST_PARTITIONS}, found {self.partitions!r}; 2 is usual"
            )
        if self.collisions is not None and (type(self.collisions) is not int or not 1 <= self.collisions <= 2**40):
            raise ConfigError(f"collisions of compo must be from 1 to 2**40, found {self.collisions!r}; leave it out")
        super().__post_init__()

    def resolve(self, shape: TableShape) -> Self:
        k = self._most(shape, self.partitions or 2)
        open_ = dataclasses.replace(self, partitions=k)
        c = self.collisions or open_._fitting(shape, shape.nbytes_float32 // 10)
        # More rows than ids are of no use, and keep c^(k-1) within 64 bits.
        return dataclasses.replace(open_, collisions=min(c, max(1, shape.num_embeddings)))

    def _most(self, shape: TableShape, k: int) -> int:
        return min(k, shape.embedding_dim) if self.op == "concat" else k

    def _cheapest(self, shape: TableShape) -> int:
        """The collisions of least bytes, near (N (k - 1))^(1 / k) where all tables are of one width."""
        k, n = self.partitions or 2, max(1, shape.num_embeddings)
        if k == 1:
            return 1
        near = max(1, int((n * (k - 1)) ** (1 / k)))
        low, high = max(1, int(near * 0.7) - 2), min(n, int(near * 1.4) + 2)
        while high - low > 64:  # convex but for the rounding up
            third = (high - low) // 3
            if self._bytes(shape, low + third) <= self._bytes(shape, high - third):
                high -= third
            else:
                low += third
        return min(range(low, high + 1), key=lambda c: self._bytes(shape, c))

    def _fitting(self, shape: TableShape, nbytes: int) -> int:
        """The collisions that make the most of `nbytes`, or those of least bytes.

        Bytes fall as c grows up to the cheapest c, and rise from there, with two tables in steps of a row.
        """
        low, high = 1, self._cheapest(shape)
        if self.partitions == 2 and self._bytes(shape, high) <= nbytes:
            low, high = high, max(high, shape.num_embeddings)
            while low < high:
                middle = (low + high + 1) // 2
                if self._bytes(shape, middle) <= nbytes:
                    low = middle
                else:
                    high = middle - 1
            return low
        while low < high:
            middle = (low + high) // 2
            if self._bytes(shape, middle) <= nbytes:
                high = middle
            else:
                low = middle + 1
        return high

    def _bytes(self, shape: TableShape, c: int) -> int:
        return sum(a.nbytes() for a in dataclasses.replace(self, collisions=c).layout(shape))

    def tables(self, shape: TableShape) -> tuple[tuple[int, int], ...]:
        """Rows and width of each table, of a resolved config."""
        k, c, dim = self.partitions or 2, self.collisions or 1, shape.embedding_dim
        rows = [c] * (k - 1) + [max(1, -(-shape.num_embeddings // c ** (k - 1)))]
        widths = [dim // k + (i < dim % k) for i in range(k)] if self.op == "concat" else [dim] * k
        return tuple(zip(rows, widths, strict=True))

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        return tuple(self.coding.spec(f"table{i}", *size) for i, size in enumerate(self.tables(shape)))

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        """The collisions that make the most of `nbytes`; `BudgetError` names the floor."""
        if self.collisions is not None:
            given = self.resolve(shape)
            floor = sum(a.nbytes() for a in given.layout(shape))
            if floor <= nbytes:
                return given
        else:
            floor = 2**62
            choices = [self.partitions] if self.partitions else range(2, MOST_PARTITIONS + 1)
            for k in dict.fromkeys(self._most(shape, k) for k in choices):
                tried = dataclasses.replace(self, partitions=k)
                collisions = tried._fitting(shape, nbytes)
                least = tried._bytes(shape, collisions)
                if least <= nbytes:
                    return dataclasses.replace(tried, collisions=collisions)
                floor = min(floor, least)
        raise BudgetError(
            f"compo needs at least {floor:,} bytes for {shape.num_embeddings:,} x {shape.embedding_dim}, found a "
            f"budget of {nbytes:,}; raise it or leave partitions and collisions open",
            floor=floor,
        )

    def digits(self, ids: Ids) -> list[npt.NDArray[np.int64]]:
        """The row of each table that each id uses."""
        found = []
        for _ in range((self.partitions or 2) - 1):
            found.append(ids % (self.collisions or 1))
            ids = ids // (self.collisions or 1)
        return [*found, ids]

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        widths = [width for _, width in self.tables(TableShape(1, out.shape[1]))]
        parts = [
            self.coding.decode(arrays[f"table{i}"][digit], width)
            for i, (digit, width) in enumerate(zip(self.digits(ids), widths, strict=True))
        ]
        if self.op == "concat":
            np.concatenate(parts, axis=1, out=out)
            return
        out[:] = parts[0]
        for part in parts[1:]:
            (np.multiply if self.op == "multiply" else np.add)(out, part, out=out)

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        return {f"table{i}": self.coding.encode(random_floats(rng, *size)) for i, size in enumerate(self.tables(shape))}


def solve_collisions(field_sizes: Sequence[int], ratio: float) -> int:
    """The least number of collisions c, one for all fields, at which quotient-remainder tables are within a ratio.

    A field of n rows costs min(n, ceil(n / c) + c) rows: it stays full where that is smaller. Raises `BudgetError`
    where no c up to the square root of all rows reaches `ratio` of the rows, naming the least ratio.
    """
    total = sum(field_sizes)
    c = np.arange(1, math.isqrt(total) + 1)
    rows = np.zeros(len(c), np.int64)
    for n in field_sizes:
        rows += np.minimum(n, -(-n // c) + c)
    fitting = rows <= ratio * total
    if not fitting.any():
        raise BudgetError(
            f"one number of collisions for these fields needs a ratio of at least {rows.min() / total:.5f}, found "
            f"{ratio}; use one for each field, or more partitions"
        )
    return int(c[np.argmax(fitting)])
