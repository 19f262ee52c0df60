"""svd: each row a short factor times a basis that all rows share (truncated singular value decomposition).

Of all tables of rank r the truncated SVD has the least squared error (Eckart and Young, 1936). Groups of rows with
bases of their own follow the magnitude-grouped SVD of Zhang et al. (PVLDB, 2024), where ranks fall with the size of
the group; here they follow from the groups' singular values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named, RowMethod, Rows
from ..products import gram, leading, multiply
from .float16 import Float16
from .float32 import Float32
from .int8 import Int8

Shared = Mapping[str, npt.NDArray[Any]]
F32 = npt.NDArray[np.float32]

# The Gram matrices of all groups take at most 128 MiB, their eigenvectors a minute.
MAX_DIM = 4096
_NORM_ROWS = 1 << 17  # rows that the bounds between groups are taken from


@dataclass(frozen=True)
class SVD(RowMethod):
    """Truncated SVD: a row is `rank` values times a basis of the whole table, the best there is of that rank.

    `pca` before a method is the same without the mean, which it subtracts first: prefer it where rows share a large
    mean, and svd where zero means something or bags are many (a sum of rows needs no correction by the mean).
    A row with NaN or inf decodes to NaN as a whole. Fitting reads the source once, twice with groups.

    Parameters
    ----------
    rank : values a row; None for half of them.
    factor : how they are stored: "float32", "float16", or "int8" with a float16 scale a row.
    basis : "float32" or "float16".
    groups : more than 1 sorts rows by length into groups of equal total length, each with a basis of its own, and
        deals out ranks where they take away most error. `rank` is then what plain svd would need the same bytes for,
        without the 5 bytes a row that say where its factor is: they pay off for long factors only. Lookups take
        several times as long.
    """

    id: ClassVar[str] = "svd"
    shorthand: ClassVar[tuple[str, ...]] = ("rank",)

    rank: int | None = None
    factor: Literal["float32", "float16", "int8"] = "int8"
    basis: Literal["float32", "float16"] = "float32"
    groups: int = 1

    def __post_init__(self) -> None:
        if self.rank is not None and (type(self.rank) is not int or self.rank < 1):
            raise ConfigError(f"rank of svd must be a positive integer, found {self.rank!r}; leave it out for half")
        if self.factor not in ("float32", "float16", "int8"):
            raise ConfigError(f"factor of svd must be float32, float16 or int8, found {self.factor!r}; choose one")
        if self.basis not in ("float32", "float16"):
            raise ConfigError(f"basis of svd must be float32 or float16, found {self.basis!r}; choose one")
        if type(self.groups) is not int or not 1 <= self.groups <= 256:
            raise ConfigError(f"groups of svd must be between 1 and 256, found {self.groups!r}; 1 is plain svd")

    def resolve(self, shape: TableShape) -> Self:
        dim = shape.embedding_dim
        if dim > MAX_DIM:
            raise ConfigError(f"svd takes rows of at most {MAX_DIM:,} values, found {dim:,}; put truncate before it")
        if self.groups * dim**2 > MAX_DIM**2:
            raise ConfigError(
                f"groups of svd must be at most {(MAX_DIM // dim) ** 2} for rows of {dim:,} values, found {self.groups}"
            )
        if self.rank is not None and self.rank > dim:
            raise ConfigError(f"rank of svd must be at most the {dim} values of a row, found {self.rank}")
        return dataclasses.replace(self, rank=self.rank or -(-dim // 2))

    def _factors(self, rank: int) -> Float32 | Float16 | Int8:
        """The method that stores factors of `rank` values."""
        if self.factor == "int8":
            return Int8(block_size=rank, symmetric=True, scale_dtype="float16", range="lse")
        return Float32() if self.factor == "float32" else Float16()

    @property
    def _stored(self) -> str:
        return "codes" if self.factor == "int8" else "values"

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n, dim, rank = shape.num_embeddings, shape.embedding_dim, self.rank or 1
        of_rows = self._factors(rank).layout(TableShape(n, rank))
        if self.groups == 1:
            return (*of_rows, ArraySpec("basis", self.basis, (rank, dim), "shared"))
        # A factor never has more than `dim` values.
        start = "uint32" if n * dim < 2**32 else "uint64"
        return (
            ArraySpec("group", "uint8", (n,), "rows"),
            ArraySpec("start", start, (n,), "rows"),
            *of_rows[1:],
            ArraySpec(self._stored, of_rows[0].dtype, ("stored",), "ragged", "start"),
            ArraySpec("ranks", "uint32", (self.groups,), "shared"),
            ArraySpec("basis", self.basis, ("total_rank", dim), "shared"),
        )

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        """The largest rank that fits; `BudgetError` names the floor."""
        low, high = 0, min(shape.embedding_dim, MAX_DIM)
        while low < high:
            middle = (low + high + 1) // 2
            if self._most(shape, middle) <= nbytes:
                low = middle
            else:
                high = middle - 1
        if low == 0:
            raise BudgetError(
                f"method 'svd' needs at least {self._most(shape, 1):,} bytes for {shape.num_embeddings:,} x "
                f"{shape.embedding_dim}, found a budget of {nbytes:,}; raise it or choose a smaller method",
                floor=self._most(shape, 1),
            )
        return dataclasses.replace(self, rank=low)

    def _most(self, shape: TableShape, rank: int) -> int:
        """Bytes for a rank; with groups no more than that."""
        made = dataclasses.replace(self, rank=rank, groups=1).layout(shape)
        plain = sum(spec.nbytes() for spec in made)
        if self.groups == 1:
            return plain
        grouped = dataclasses.replace(self, rank=rank).layout(shape)
        return plain + sum(s.nbytes() for s in grouped if s.name in ("group", "start", "ranks"))

    # Fitting --------------------------------------------------------------------------------------------------

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        shape = source.shape
        bounds = self._bounds(source, rng)
        grams = np.zeros((self.groups, shape.embedding_dim, shape.embedding_dim))
        counts = np.zeros(self.groups, np.int64)
        for rows in source.blocks():
            finite = rows[np.isfinite(rows).all(axis=1)]
            for g, at in _members(np.searchsorted(bounds, _norms(finite))):
                x = finite[at].astype(np.float64)
                grams[g] += gram(x)
                counts[g] += len(x)
        vectors, energies = zip(*(leading(g, shape.embedding_dim) for g in grams), strict=True)
        ranks = self._ranks(np.stack(energies), counts, shape)
        made = np.concatenate([v[:r] for v, r in zip(vectors, ranks, strict=True)])
        basis = made.astype(self.basis)
        # Rows are projected on what is stored, which in float16 is no longer quite orthonormal.
        parts = np.split(basis.astype(np.float64), np.cumsum(ranks)[:-1])
        projection = np.concatenate([np.linalg.pinv(p) for p in parts], axis=1).astype(np.float32)
        named: Named = {"basis": basis, "_projection": projection}
        if self.groups > 1:
            named |= {"ranks": ranks.astype(np.uint32), "_bounds": bounds}
        return named

    def _bounds(self, source: Rows, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Lengths of rows that part the groups, ascending: equal sums of lengths, by a sample."""
        if self.groups == 1:
            return np.zeros(0)
        norms = _norms(source.sample(_NORM_ROWS, rng))
        norms = np.sort(norms[np.isfinite(norms)])
        sums = np.cumsum(norms)
        if not len(norms) or not sums[-1]:
            return np.zeros(self.groups - 1)
        at = np.searchsorted(sums, sums[-1] * np.arange(1, self.groups) / self.groups)
        bounds: npt.NDArray[np.float64] = norms[np.minimum(at, len(norms) - 1)]
        return bounds

    def _ranks(
        self, energies: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], shape: TableShape
    ) -> npt.NDArray[np.int64]:
        """Ranks of the groups: directions of most energy for a byte, within what plain svd would take."""
        dim, rank = shape.embedding_dim, self.rank or 1
        if self.groups == 1:
            return np.array([rank])
        factor, basis = np.dtype(self.factor).itemsize, np.dtype(self.basis).itemsize
        costs = np.repeat((counts * factor + dim * basis)[:, None], dim, axis=1)
        left = rank * (shape.num_embeddings * factor + dim * basis)
        ranks = np.zeros(self.groups, np.int64)
        for flat in np.argsort(-(energies / costs), axis=None, kind="stable"):
            g, k = divmod(int(flat), dim)
            # A group's directions come in order; the first that does not fit ends it.
            if k == ranks[g] and costs[g, k] <= left:
                ranks[g] += 1
                left -= int(costs[g, k])
        return ranks

    # Rows -----------------------------------------------------------------------------------------------------

    def encode(self, shared: Shared, ids: Ids, rows: FloatRows) -> Named:
        if self.groups == 1:
            return self._factors(self.rank or 1).encode({}, ids, _project(rows, shared["_projection"]))
        with np.errstate(invalid="ignore"):
            group = np.searchsorted(shared["_bounds"], _norms(rows))
        group = np.minimum(group, self.groups - 1)
        ranks, first = shared["ranks"].astype(np.int64), _firsts(shared["ranks"])
        lengths = ranks[group]
        starts = np.cumsum(lengths) - lengths
        specs = {s.name: s for s in self.layout(TableShape(len(rows), rows.shape[1]))}
        named: Named = {
            "group": group.astype(np.uint8),
            "start": starts.astype(specs["start"].dtype),
            self._stored: np.empty(int(lengths.sum()), specs[self._stored].dtype),
        }
        if "scale" in specs:
            named["scale"] = np.zeros((len(rows), 1), np.float16)
        for g, at in _members(group):
            if not ranks[g]:
                continue
            projection = shared["_projection"][:, first[g] : first[g] + ranks[g]]
            made = self._factors(int(ranks[g])).encode({}, ids[at], _project(rows[at], projection))
            named[self._stored][starts[at, None] + np.arange(ranks[g])] = made.pop(self._stored)
            if "scale" in specs:
                named["scale"][at] = made["scale"]
        return named

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse rows too large for the factor's dtype; `ConfigError` names the first."""
        large = np.isinf(encoded["scale" if self.factor == "int8" else self._stored])
        if not large.any():
            return
        row = int(np.flatnonzero(large.reshape(len(large), -1).any(axis=1))[0])
        if self.groups > 1 and self.factor != "int8":
            row = int(np.searchsorted(encoded["start"], row, side="right")) - 1
        raise ConfigError(
            f"svd stores factors as {self.factor}, and those of row {first_row + row} are too large for it; "
            "use factor='float32'"
        )

    def codes(self, arrays: Arrays, ids: Ids) -> FloatRows:
        """Factors of rows, of the width of all bases together: zero but for the row's own group."""
        at = ids - arrays.start
        if self.groups == 1:
            codes = np.empty((len(ids), self.rank or 1), np.float32)
            self._factors(self.rank or 1).lookup(arrays, ids, codes)
            return codes
        group, stored = arrays["group"][at], arrays[self._stored]
        ranks, first = arrays["ranks"].astype(np.int64), _firsts(arrays["ranks"])
        codes = np.zeros((len(ids), int(ranks.sum())), np.float32)
        for g, members in _members(group):
            where = arrays["start"][at[members], None].astype(np.int64) + np.arange(ranks[g])
            part = stored[where].astype(np.float32)
            if self.factor == "int8":
                part *= arrays["scale"][at[members]].astype(np.float32)
            codes[members, first[g] : first[g] + ranks[g]] = part
        return codes

    def expand(self, shared: Shared, codes: FloatRows) -> FloatRows:
        """Factors, or sums of them, to rows."""
        return multiply(codes, shared["basis"].astype(np.float32))

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        out[:] = self.expand(arrays, self.codes(arrays, ids))

    def constants(self, shared: Shared) -> Named:
        """The basis as the kernel reads it, whatever it is stored as."""
        return {"basis": shared["basis"].astype(np.float32)} if self.basis == "float16" else {}


def _norms(rows: FloatRows) -> npt.NDArray[np.float64]:
    norms: npt.NDArray[np.float64] = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
    return norms


def _members(group: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    for g in np.unique(group):
        yield int(g), np.flatnonzero(group == g)


def _firsts(ranks: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    wide = ranks.astype(np.int64)
    firsts: npt.NDArray[np.int64] = np.cumsum(wide) - wide
    return firsts


def _project(rows: FloatRows, projection: npt.NDArray[Any]) -> F32:
    with np.errstate(invalid="ignore", over="ignore"):
        factors = multiply(rows, projection)
    factors[~np.isfinite(rows).all(axis=1)] = np.nan
    return factors
