"""tt: the table as a tensor train, a product of small cores that all rows share (TT-Rec, Yin et al., MLSys 2021).

Fitted to a finished table by TT-SVD (Oseledets, 2011), from the last core to the first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named, RowMethod, Rows
from ..products import leading
from ._shared import check_finite, root
from .int8 import Int8

Shared = Mapping[str, npt.NDArray[Any]]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Sides of the Gram matrices of a fit: their eigenvectors take minutes, and 8 bytes a squared side.
MAX_GRAM = 8192
# What is left of the table once the last core is split off is held in memory, in float32.
MAX_BYTES = 4 << 30
_VALUES = 1 << 20  # of the reference's intermediate products, at a time
_SLICES = Int8(symmetric=True, scale_dtype="float32")  # a slice of an int8 core is a row of these


@dataclass(frozen=True)
class TT(RowMethod):
    """Tensor train: nothing stored by row, all rows are products of `cores` small matrices.

    The id's digits, the most significant first, choose a slice of each core. Rows that share digits share parameters,
    so that neighbours should be alike: order the table well, by cluster or by principal component, before. Tables of
    independent rows lose much; NaN and inf are refused. Fitting reads the source twice.

    Parameters
    ----------
    rank : of all products between cores, at most; None for a tenth of the bytes of float32.
    cores : 2 to 4. More are smaller for the rank, and lose more.
    core_dtype : "float32", or "int8": signed codes with one scale for each slice of a core, so that a budget holds four
        times as many values. A factor of a whole slice is one of its products too, and multiplies those; rows of a
        slice could have scales of their own in the same way, which in the last core would be one for `q` codes. In
        evaluation a module gives the rows that the codes stand for.
    """

    id: ClassVar[str] = "tt"
    shorthand: ClassVar[tuple[str, ...]] = ("rank", "cores")
    later: ClassVar[tuple[str, ...]] = ("core_dtype",)

    rank: int | None = None
    cores: int = 3
    core_dtype: Literal["float32", "int8"] = "float32"

    def __post_init__(self) -> None:
        if self.rank is not None and (type(self.rank) is not int or not 1 <= self.rank <= 1 << 16):
            raise ConfigError(f"rank of tt must be between 1 and 65536, found {self.rank!r}; leave it out for a tenth")
        if type(self.cores) is not int or not 2 <= self.cores <= 4:
            raise ConfigError(f"cores of tt must be 2, 3 or 4, found {self.cores!r}; 3 suits most")
        if self.core_dtype not in ("float32", "int8"):
            raise ConfigError(f"core_dtype of tt must be 'float32' or 'int8', found {self.core_dtype!r}; choose one")

    # Shapes ---------------------------------------------------------------------------------------------------

    def row_sizes(self, shape: TableShape) -> tuple[int, ...]:
        """n_i, as equal as can be, with a product of at least num_embeddings."""
        sizes, left = [], max(shape.num_embeddings, 1)
        for i in range(self.cores):
            sizes.append(root(left, self.cores - i))
            left = -(-left // sizes[-1])
        return tuple(sizes)

    def value_sizes(self, shape: TableShape) -> tuple[int, ...]:
        """q_i, of the least product from embedding_dim on whose factors differ by at most four times.

        The smallest lie between the others, where a core has two ranks; the largest is the last.
        """
        product = shape.embedding_dim
        while True:
            q = sorted(_balanced(product, self.cores))
            if q[-1] <= 4 * q[0]:
                return (q[-2], *q[:-2], q[-1])
            product += 1

    def ranks(self, shape: TableShape) -> tuple[int, ...]:
        """r_0 … r_cores: `rank`, or less where a matrix between cores has fewer rows or columns."""
        sides = [n * q for n, q in zip(self.row_sizes(shape), self.value_sizes(shape), strict=True)]
        inner = [min(self.rank or 1, math.prod(sides[:i]), math.prod(sides[i:])) for i in range(1, self.cores)]
        return (1, *inner, 1)

    def resolve(self, shape: TableShape) -> Self:
        if self.rank is None:
            tenth = shape.nbytes_float32 // 10
            found = self._fitting(shape, tenth)
            return dataclasses.replace(self, rank=max(found, 1)).resolve(shape)
        return dataclasses.replace(self, rank=max(self.ranks(shape)))

    def check_fit(self, shape: TableShape) -> None:
        """`ConfigError` where TT-SVD would take too much; trained cores have no such bound."""
        sides = [n * q for n, q in zip(self.row_sizes(shape), self.value_sizes(shape), strict=True)]
        ranks = self.ranks(shape)
        grams = [min(math.prod(sides[:i]), sides[i] * ranks[i + 1]) for i in range(1, self.cores - 1)]
        held = 4 * math.prod(sides[:-1]) * ranks[-2]
        if max(sides[-1], *grams, 0) > MAX_GRAM or held > MAX_BYTES:
            raise ConfigError(
                f"fitting tt to {shape.num_embeddings:,} x {shape.embedding_dim} with {self.cores} cores of rank "
                f"{self.rank} must take matrices of at most {MAX_GRAM:,} rows and {MAX_BYTES >> 30} GiB, found "
                f"{max(sides[-1], *grams, 0):,} rows and {held / 2**30:.1f} GiB; lower the rank or change cores"
            )

    def core_sizes(self, shape: TableShape) -> tuple[tuple[int, int, int, int], ...]:
        """(n_i, r_i, q_i, r_{i+1}) of each core."""
        ranks = self.ranks(shape)
        return tuple(zip(self.row_sizes(shape), ranks[:-1], self.value_sizes(shape), ranks[1:], strict=True))

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        sizes = self.core_sizes(shape)
        cores = tuple(ArraySpec(f"core{i}", self.core_dtype, size, "shared") for i, size in enumerate(sizes))
        if self.core_dtype == "float32":
            return cores
        return (*cores, *(ArraySpec(f"scale{i}", "float32", size[:1], "shared") for i, size in enumerate(sizes)))

    def _bytes(self, shape: TableShape, rank: int) -> int:
        return sum(spec.nbytes() for spec in dataclasses.replace(self, rank=rank).layout(shape))

    def _fitting(self, shape: TableShape, nbytes: int) -> int:
        """The largest rank within `nbytes`, 0 for none; ranks that no table of the shape needs count as too large."""
        low, high = 0, max(dataclasses.replace(self, rank=1 << 16).ranks(shape))
        while low < high:
            middle = (low + high + 1) // 2
            if self._bytes(shape, middle) <= nbytes:
                low = middle
            else:
                high = middle - 1
        return low

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        """The largest rank that fits; `BudgetError` names the floor."""
        rank = self._fitting(shape, nbytes)
        if not rank:
            raise BudgetError(
                f"method 'tt' needs at least {self._bytes(shape, 1):,} bytes for {shape.num_embeddings:,} x "
                f"{shape.embedding_dim}, found a budget of {nbytes:,}; raise it or take more cores",
                floor=self._bytes(shape, 1),
            )
        return dataclasses.replace(self, rank=rank)

    # Fitting --------------------------------------------------------------------------------------------------

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        """TT-SVD: the last core from a Gram matrix of the stream, the others in memory from what it leaves."""
        self.check_fit(source.shape)
        n, q, ranks = self.row_sizes(source.shape), self.value_sizes(source.shape), self.ranks(source.shape)
        gram = np.zeros((n[-1] * q[-1],) * 2)
        for block in self._unfolded(source):
            gram += block.T @ block
        right, _ = leading(gram, ranks[-2])
        cores: list[npt.NDArray[Any]] = [right.reshape(ranks[-2], n[-1], q[-1], 1)]
        rest = np.zeros((math.prod(n[:-1]) * math.prod(q[:-1]), ranks[-2]), np.float32)
        at = 0
        for block in self._unfolded(source):
            rest[at : at + len(block)] = block @ right.T
            at += len(block)
        for i in range(self.cores - 2, 0, -1):
            tensor = rest.reshape(math.prod(n[:i]), n[i], math.prod(q[:i]), q[i], ranks[i + 1])
            matrix = tensor.transpose(0, 2, 1, 3, 4).reshape(math.prod(n[:i]) * math.prod(q[:i]), -1)
            rest, right = _split(matrix, ranks[i])
            cores.append(right.reshape(ranks[i], n[i], q[i], ranks[i + 1]))
        cores.append(rest.reshape(1, n[0], q[0], ranks[1]))
        found = [core.transpose(1, 0, 2, 3) for core in reversed(cores)]
        return self.encode_cores(found if self.core_dtype == "float32" else _level(found))

    def _unfolded(self, source: Rows) -> Iterator[F64]:
        """The table in order as blocks of the matrix with the last core's n q columns; what is padding is zero."""
        shape = source.shape
        n, q = self.row_sizes(shape)[-1], self.value_sizes(shape)
        held = np.zeros((0, math.prod(q)))
        for rows in source.blocks():
            padded = np.zeros((len(rows), math.prod(q)))
            finite = np.flatnonzero(np.isfinite(rows).all(axis=1))
            padded[finite, : rows.shape[1]] = rows[finite]
            held = np.concatenate([held, padded])
            whole = len(held) // n * n
            if whole:
                yield _fold(held[:whole], n, q)
                held = held[whole:]
        if len(held):
            last = np.zeros((n, math.prod(q)))
            last[: len(held)] = held
            yield _fold(last, n, q)

    # Cores ----------------------------------------------------------------------------------------------------

    def encode_cores(self, cores: Sequence[npt.NDArray[Any]]) -> Named:
        """Every stored array, of cores (n_i, r_i, q_i, r_{i+1})."""
        floats = [np.ascontiguousarray(core, np.float32) for core in cores]
        if self.core_dtype == "float32":
            return {f"core{i}": core for i, core in enumerate(floats)}
        named: Named = {}
        for i, core in enumerate(floats):
            slices = core.reshape(len(core), -1)
            made = _SLICES.resolve(TableShape(*slices.shape)).encode({}, np.arange(len(slices)), slices)
            named |= {f"core{i}": made["codes"].reshape(core.shape), f"scale{i}": made["scale"][:, 0]}
        return named

    def decode_core(self, stored: Shared, i: int) -> F32:
        """Core i, of what `encode_cores` gave."""
        core: F32 = stored[f"core{i}"].astype(np.float32)
        return core * stored[f"scale{i}"][:, None, None, None] if f"scale{i}" in stored else core

    # Rows -----------------------------------------------------------------------------------------------------

    def encode(self, shared: Shared, ids: Ids, rows: FloatRows) -> Named:
        return {}

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse NaN and inf: there is nowhere to keep them."""
        check_finite(self.id, rows, first_row)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        cores: list[npt.NDArray[Any]] = [arrays[f"core{i}"] for i in range(self.cores)]
        scales: list[npt.NDArray[Any]] = [arrays[f"scale{i}"] for i in range(self.cores) if f"scale{i}" in arrays]
        step = max(1, _VALUES // (out.shape[1] * max(core.shape[3] for core in cores)))
        for first in range(0, len(ids), step):
            part = ids[first : first + step]
            digits: list[npt.NDArray[np.int64]] = []
            for core in reversed(cores):
                part, digit = np.divmod(part, len(core))
                digits.insert(0, digit)
            product = np.ones((len(part), 1, 1), np.float32)
            for i, (core, digit) in enumerate(zip(cores, digits, strict=True)):
                matrix = core[digit].reshape(len(part), 1, core.shape[1], -1).astype(np.float32)
                total = product[:, :, :1] * matrix[:, :, 0]
                for k in range(1, core.shape[1]):
                    total += product[:, :, k : k + 1] * matrix[:, :, k]
                if scales:
                    total *= scales[i][digit, None, None]
                product = total.reshape(len(part), -1, core.shape[3])
            out[first : first + step] = product.reshape(len(part), -1)[:, : out.shape[1]]

    def constants(self, shared: Shared) -> Named:
        """Sizes (n, r, q, r) of the cores, which the kernel knows as bytes only."""
        return {"sizes": np.array([shared[f"core{i}"].shape for i in range(self.cores)], np.int64)}


def solve_rank(field_sizes: Sequence[int], dim: int, ratio: float, cores: int = 3) -> int:
    """The largest rank, one for all fields, at which the cores are within a ratio of the tables' weights.

    A field stays full where that is smaller. Cores are counted at the whole rank, though a table may need less of it.
    Raises `BudgetError` where no rank reaches the ratio.
    """
    full = sum(field_sizes) * dim
    method = TT(cores=cores)
    shapes = [TableShape(n, dim) for n in field_sizes]
    sides = [[n * q for n, q in zip(method.row_sizes(s), method.value_sizes(s), strict=True)] for s in shapes]

    def spent(rank: int) -> int:
        cost = [(own[0] + own[-1]) * rank + sum(own[1:-1]) * rank**2 for own in sides]
        return sum(min(n * dim, weights) for n, weights in zip(field_sizes, cost, strict=True))

    low, high = 0, 1 << 16
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if spent(middle) <= ratio * full else (low, middle - 1)
    if low == 0:
        raise BudgetError(f"one rank for these fields needs a ratio of at least {spent(1) / full:.6f}, found {ratio}")
    return low


def _balanced(product: int, count: int) -> tuple[int, ...]:
    """`count` factors of a product, the smallest as large as can be, then the next."""
    if count == 1:
        return (product,)
    first = max(k for k in range(1, root(product, count) + 1) if product % k == 0 and k**count <= product)
    return (first, *_balanced(product // first, count - 1))


def _level(cores: Sequence[npt.NDArray[Any]]) -> list[F64]:
    """Cores of the same products, in which what is multiplied has one length on both sides of each bond.

    TT-SVD leaves the singular values in the first core, where small ones are lost in a scale that suits the largest.
    """
    level: list[F64] = [core.astype(np.float64) for core in cores]
    for i in range(1, len(level)):
        left = np.sqrt(np.square(level[i - 1]).sum(axis=(0, 1, 2)))
        right = np.sqrt(np.square(level[i]).sum(axis=(0, 2, 3)))
        by = np.sqrt(np.divide(right, left, out=np.ones_like(left), where=(left > 0) & (right > 0)))
        level[i - 1] = level[i - 1] * by
        level[i] = level[i] / by[:, None, None]
    return level


def _fold(rows: F64, n: int, q: tuple[int, ...]) -> F64:
    """Rows (k n, prod q) to (k prod q[:-1], n q[-1])."""
    split = rows.reshape(len(rows) // n, n, -1, q[-1])
    return split.transpose(0, 2, 1, 3).reshape(-1, n * q[-1])


def _split(matrix: npt.NDArray[Any], rank: int) -> tuple[F32, F64]:
    """The truncated SVD as (left times singular values, orthonormal right), by the smaller Gram matrix."""
    wide = matrix.astype(np.float64)
    if wide.shape[1] <= wide.shape[0]:
        right, _ = leading(wide.T @ wide, rank)
        return (wide @ right.T).astype(np.float32), right
    left, squares = leading(wide @ wide.T, rank)
    values = np.sqrt(squares[:rank])[:, None]
    right = np.divide(left @ wide, values, out=np.zeros((rank, wide.shape[1])), where=values > 0)
    return (left * values).T.astype(np.float32), right
