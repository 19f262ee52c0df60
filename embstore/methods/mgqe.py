"""mgqe: product codes in two sizes, more bits for the rows that matter more (Kang et al., WWW 2020 companion)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named, RowMethod, Rows, nbytes
from . import _groups

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

# Rows each of the two groups is learned from, at most.
_TRAIN_ROWS = 1 << 15
_ROUNDS = 12
# Rows compared with the centroids at a time: the distances stay in the second-level cache.
_TILE = 256


@dataclass(frozen=True)
class MGQE(RowMethod):
    """Product codes of which hot rows use whole codebooks and cold rows the first centroids only, in fewer bits.

    Parameters
    ----------
    m : parts of a row, each a code; None for parts of 4 values.
    bits, cold_bits : bits of a code of hot and of cold rows, at most 8. The centroids of cold rows, 2**cold_bits of
        each codebook, are learned from cold rows; the others are added where they leave hot rows worst off.
    hot : share of the rows that is hot.
    by : what is hot: "counts" (the rows most used), "norm" (the longest rows), or "auto": counts where there are any.

    Learned by k-means from at most 32,768 rows of each group. Rows with NaN or infinities are refused.
    """

    id: ClassVar[str] = "mgqe"
    shorthand: ClassVar[tuple[str, ...]] = ("m", "bits")

    m: int | None = None
    bits: int = 8
    cold_bits: int = 6
    hot: float = 0.1
    by: Literal["auto", "counts", "norm"] = "auto"

    def __post_init__(self) -> None:
        if self.m is not None and (type(self.m) is not int or self.m < 1):
            raise ConfigError(
                f"m of mgqe must be a positive integer, found {self.m!r}; leave it out for 4 values a part"
            )
        for name in ("bits", "cold_bits"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 8:
                raise ConfigError(f"{name} of mgqe must be from 1 to 8, found {value!r}; 8 and 6 are usual")
        if self.cold_bits > self.bits:
            raise ConfigError(f"cold_bits of mgqe must be at most bits, {self.bits}, found {self.cold_bits}; swap them")
        if isinstance(self.hot, bool) or not isinstance(self.hot, (int, float)) or not 0 <= self.hot <= 1:
            raise ConfigError(f"hot of mgqe must be from 0 to 1, found {self.hot!r}; 0.1 is usual")
        if self.by not in ("auto", "counts", "norm"):
            raise ConfigError(f"by of mgqe must be 'auto', 'counts' or 'norm', found {self.by!r}; choose one")

    def resolve(self, shape: TableShape) -> Self:
        """Parts of equal length, none of them empty."""
        _groups.check_rows(self.id, shape)
        width = 4 if self.m is None else -(-shape.embedding_dim // min(self.m, shape.embedding_dim))
        return dataclasses.replace(self, m=-(-shape.embedding_dim // width))

    def parts(self, dim: int) -> tuple[int, int]:
        """(parts, values of each)."""
        parts = self.m or -(-dim // 4)
        return parts, -(-dim // parts)

    def slices(self, dim: int) -> list[tuple[int, int]]:
        """The first column of each part, and the one after its last."""
        parts, width = self.parts(dim)
        return [(p * width, min((p + 1) * width, dim)) for p in range(parts)]

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        parts, width = self.parts(shape.embedding_dim)
        return (
            *_groups.specs(2),
            ArraySpec("codebooks", "float32", (parts, 1 << self.bits, width), "shared"),
            ArraySpec("hot_codes", "uint8", ("hot_rows", -(-parts * self.bits // 8)), "ragged"),
            ArraySpec("cold_codes", "uint8", ("cold_rows", -(-parts * self.cold_bits // 8)), "ragged"),
        )

    def hot_rows(self, n: int) -> int:
        """How many of n rows are hot."""
        return round(self.hot * n)

    def free_sizes(self, shape: TableShape) -> dict[str, int]:
        """For hot rows in no order."""
        n = shape.num_embeddings
        hot = self.hot_rows(n)
        return {**_groups.free_sizes(shape, 2, hot in (0, n)), "hot_rows": hot, "cold_rows": n - hot}

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """As many parts as fit; `BudgetError` names what a single one takes."""
        widths = range(1, shape.embedding_dim + 1)
        options = {-(-shape.embedding_dim // w): None for w in widths}
        for parts in sorted(options, reverse=True):
            option = dataclasses.replace(self, m=parts).resolve(shape)
            if (floor := nbytes(option, shape)) <= nbytes_:
                return option
        raise BudgetError(
            f"method 'mgqe' needs at least {floor:,} bytes for {shape.num_embeddings:,} x {shape.embedding_dim}, found "
            f"a budget of {nbytes_:,}; raise it, or set fewer bits",
            floor=floor,
        )

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        """Which rows are hot, and the codebooks."""
        group = self._grouped(source)
        hot, cold = (self._drawn(source, np.flatnonzero(group == g), rng) for g in (0, 1))
        parts, width = self.parts(source.shape.embedding_dim)
        codebooks = np.empty((parts, 1 << self.bits, width), np.float32)
        first = 1 << self.cold_bits
        for p in range(parts):
            of_cold, of_hot = _part(cold, p, width), _part(hot, p, width)
            if not len(of_cold):
                of_cold = of_hot
            codebooks[p, :first] = _lloyd(of_cold, np.zeros((0, width), np.float32), first, rng)
            codebooks[p, first:] = _lloyd(of_hot, codebooks[p, :first], (1 << self.bits) - first, rng)
        return {**_groups.build(group, 2), "codebooks": codebooks, "_group": group}

    def _grouped(self, source: Rows) -> U8:
        """0 for hot rows, 1 for cold ones; of equals the first is hot."""
        weight = source.counts
        if self.by == "counts" and weight is None:
            raise ConfigError("mgqe by counts needs to know how often rows are used; pass counts= or by='norm'")
        if self.by == "norm" or weight is None:
            norms = [np.square(rows, dtype=np.float64).sum(axis=1) for rows in source.blocks()]
            weight = np.nan_to_num(np.concatenate([np.zeros(0), *norms]))
        group = np.ones(len(weight), np.uint8)
        group[np.argsort(-weight, kind="stable")[: self.hot_rows(len(weight))]] = 0
        return group

    def _drawn(self, source: Rows, ids: npt.NDArray[np.int64], rng: np.random.Generator) -> F32:
        """At most _TRAIN_ROWS finite rows of `ids`."""
        if len(ids) > _TRAIN_ROWS:
            ids = np.sort(rng.choice(ids, _TRAIN_ROWS, replace=False))
        found = [np.zeros((0, source.shape.embedding_dim), np.float32)]
        start = 0
        for rows in source.blocks():
            low, high = np.searchsorted(ids, (start, start + len(rows)))
            found.append(rows[ids[low:high] - start])
            start += len(rows)
        drawn = np.concatenate(found)
        return drawn[np.isfinite(drawn).all(axis=1)]

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        group, codebooks = shared["_group"][ids], shared["codebooks"]
        named: Named = {}
        for g, (name, bits) in enumerate((("hot_codes", self.bits), ("cold_codes", self.cold_bits))):
            x = rows[group == g]
            codes = np.empty((len(x), len(codebooks)), np.uint8)
            for p, book in enumerate(codebooks):
                codes[:, p] = _nearest(_part(x, p, book.shape[1]), book[: 1 << bits])[0]
            named[name] = _pack(codes, bits)
        return named

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse rows that are not finite; `ConfigError` names the first."""
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise ConfigError(
                f"mgqe has no code for NaN and infinities, found one in row {first_row + int(np.argmin(finite))}; "
                "mend the source or choose another method"
            )

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        books = arrays["codebooks"]
        group, place = _groups.locate(arrays, ids)
        for g, (name, bits) in enumerate((("hot_codes", self.bits), ("cold_codes", self.cold_bits))):
            at = np.flatnonzero(group == g)
            codes = _unpack(arrays[name][place[at]], bits, len(books))
            rows = books[np.arange(len(books)), codes]
            out[at] = rows.reshape(len(at), books.shape[0] * books.shape[2])[:, : out.shape[1]]


def _part(rows: F32, p: int, width: int) -> F32:
    """Part p of rows, the last one padded with zeros."""
    part = rows[:, p * width : (p + 1) * width]
    return np.pad(part, ((0, 0), (0, width - part.shape[1])))


def _nearest(rows: F32, centroids: F32) -> tuple[npt.NDArray[np.int64], F32]:
    """The nearest centroid of each row, the first of equals, and its squared distance.

    Without BLAS, which may give a row other last bits among other rows.
    """
    codes, distance = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    with np.errstate(all="ignore"):
        for first in range(0, len(rows), _TILE):
            part = rows[first : first + _TILE]
            total = np.square(part[:, :1] - centroids[:, 0])
            for j in range(1, rows.shape[1]):
                total += np.square(part[:, j : j + 1] - centroids[:, j])
            best = total.argmin(axis=1)
            codes[first : first + _TILE] = best
            distance[first : first + _TILE] = total[np.arange(len(part)), best]
    return codes, distance


def _lloyd(rows: F32, fixed: F32, k: int, rng: np.random.Generator) -> F32:
    """k centroids beside the fixed ones: rows drawn by what they are still off, then k-means with those held.

    With fewer distinct rows than k some centroids are repeated. Without rows they are zeros.
    """
    if k == 0 or not len(rows):
        return np.zeros((k, rows.shape[1]), np.float32)
    weight = _nearest(rows, fixed)[1].astype(np.float64) if len(fixed) else np.ones(len(rows))
    some = np.flatnonzero(weight > 0)
    some = some if len(some) else np.arange(len(rows))
    take = min(k, len(some))
    share = weight[some] / weight[some].sum() if weight[some].any() else None
    chosen = some[np.sort(rng.choice(len(some), take, replace=False, p=share))]
    centroids = rows[np.resize(chosen, k)].astype(np.float32)
    for _ in range(_ROUNDS):
        codes, _distance = _nearest(rows, np.concatenate([fixed, centroids]))
        own = codes - len(fixed)
        mine = own >= 0
        totals = np.bincount(own[mine], minlength=k)
        for j in range(rows.shape[1]):
            sums = np.bincount(own[mine], weights=rows[mine, j], minlength=k)
            centroids[:, j] = np.where(totals > 0, sums / np.maximum(totals, 1), centroids[:, j])
    return centroids


def _pack(codes: U8, bits: int) -> U8:
    """(n, m) codes to rows of bytes: code after code, low bits first."""
    n, m = codes.shape
    flat = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little").reshape(n, m * bits)
    return np.packbits(flat, axis=1, bitorder="little").reshape(n, -(-m * bits // 8))


def _unpack(packed: npt.NDArray[Any], bits: int, m: int) -> U8:
    """The inverse of `_pack`."""
    flat = np.unpackbits(packed.astype(np.uint8), axis=1, count=m * bits, bitorder="little")
    return np.packbits(flat.reshape(len(packed), m, bits), axis=2, bitorder="little")[:, :, 0]
