"""subspace: rows put together from parts that many rows share (Jaiswal and Liu, CIKM 2023).

The paper trains the parts; here they are fitted to a finished table.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..kmeans import ROWS_PER_CENTROID, finite_rows, kmeans
from ..method import FloatRows, Ids, Named, RowMethod, Rows
from ._shared import check_finite, root

Shared = Mapping[str, npt.NDArray[Any]]
F32 = npt.NDArray[np.float32]

CENTROIDS = 256
_MEMBERS = 1 << 16  # that a uint16 tells apart
_CHUNK = 1 << 14  # rows compared with centroids at a time


@dataclass(frozen=True)
class Subspace(RowMethod):
    """Rows put together from shared parts: by digits of the id and nothing a row, or by clusters and a byte a part.

    "dispersed": with n = ceil(num_embeddings ** (1 / parts)), part j of a row is entry d of n, d the j-th digit of the
    id in base n, the most significant first. Each entry is the mean of what it stands for, the least-squares fit. It
    keeps little of a table that was not trained so: a start for training, or for tables ordered so that digits mean
    something.

    "cluster": part j of a row is the nearest of 256 centroids, and no two rows are the same: where they share all
    other parts, the last part of each is an entry of its own. Fitting needs faiss and holds `parts` + 1 bytes a row.

    NaN and inf are refused.

    Parameters
    ----------
    parts : slices of the row, as even as can be; None for 3, or for "cluster" one for every 4 values.
    kind : "dispersed" or "cluster".
    """

    id: ClassVar[str] = "subspace"
    shorthand: ClassVar[tuple[str, ...]] = ("parts",)

    parts: int | None = None
    kind: Literal["dispersed", "cluster"] = "dispersed"

    def __post_init__(self) -> None:
        if self.parts is not None and (type(self.parts) is not int or self.parts < 1):
            raise ConfigError(f"parts of subspace must be a positive integer, found {self.parts!r}; leave it out")
        if self.kind not in ("dispersed", "cluster"):
            raise ConfigError(f"kind of subspace must be dispersed or cluster, found {self.kind!r}; choose one")

    def resolve(self, shape: TableShape) -> Self:
        dim = shape.embedding_dim
        if self.parts is not None and self.parts > dim:
            raise ConfigError(f"parts of subspace must be at most the {dim} values of a row, found {self.parts}")
        default = 3 if self.kind == "dispersed" else -(-dim // 4)
        return dataclasses.replace(self, parts=self.parts or min(default, dim))

    def bounds(self, dim: int) -> list[int]:
        """Where parts begin, and where the last ends."""
        parts = self.parts or 1
        return [p * dim // parts for p in range(parts + 1)]

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n, dim, parts = shape.num_embeddings, shape.embedding_dim, self.parts or 1
        if self.kind == "dispersed":
            return (ArraySpec("parts", "float32", (root(max(n, 1), parts), dim), "shared"),)
        last = self.bounds(dim)[-2]
        unique = (
            ArraySpec("member", "uint16", (n,), "rows"),
            ArraySpec("members", "float32", ("num_members", dim - last), "shared"),
        )
        if parts == 1:
            return unique
        return (
            ArraySpec("codes", "uint8", (n, parts - 1), "rows"),
            ArraySpec("centroids", "float32", (CENTROIDS, last), "shared"),
            *unique,
        )

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        """The parts of least error that fit: few for "dispersed", many for "cluster"; `BudgetError` names the floor.

        The bytes of "cluster" are those of a table of which at most 256 rows share all parts but the last.
        """
        every = range(1, shape.embedding_dim + 1)
        costs = {p: self._most(shape, p) for p in (every if self.kind == "dispersed" else reversed(every))}
        for parts, cost in costs.items():
            if cost <= nbytes:
                return dataclasses.replace(self, parts=parts)
        raise BudgetError(
            f"method 'subspace' needs at least {min(costs.values()):,} bytes for {shape.num_embeddings:,} x "
            f"{shape.embedding_dim}, found a budget of {nbytes:,}; raise it or choose a smaller method",
            floor=min(costs.values()),
        )

    def _most(self, shape: TableShape, parts: int) -> int:
        made = dataclasses.replace(self, parts=parts).layout(shape)
        return sum(spec.nbytes(num_members=CENTROIDS) for spec in made)

    # Fitting --------------------------------------------------------------------------------------------------

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        return self._fit_digits(source) if self.kind == "dispersed" else self._fit_clusters(source, rng)

    def _fit_digits(self, source: Rows) -> Named:
        (spec,) = self.layout(source.shape)
        base, dim = spec.sizes()
        sums, counts = np.zeros((base, dim)), np.zeros((base, dim), np.int64)
        start, bounds = 0, self.bounds(dim)
        for rows in source.blocks():
            finite = np.isfinite(rows).all(axis=1)
            ids = start + np.flatnonzero(finite)
            for digits, (begin, end) in zip(self._digits(ids, base), _pairs(bounds), strict=True):
                np.add.at(sums[:, begin:end], digits, rows[finite, begin:end].astype(np.float64))
                counts[:, begin:end] += np.bincount(digits, minlength=base)[:, None]
            start += len(rows)
        return {"parts": (sums / np.maximum(counts, 1)).astype(np.float32)}

    def _digits(self, ids: npt.NDArray[Any], base: int) -> list[npt.NDArray[np.int64]]:
        """Digits of ids, the most significant first, as many as there are parts."""
        digits: list[npt.NDArray[np.int64]] = []
        for _ in range(self.parts or 1):
            ids, digit = np.divmod(ids, base)
            digits.insert(0, digit)
        return digits

    def _fit_clusters(self, source: Rows, rng: np.random.Generator) -> Named:
        n, dim = source.shape.num_embeddings, source.shape.embedding_dim
        bounds, seed = self.bounds(dim), int(rng.integers(1 << 31))
        sample = finite_rows(source.sample(CENTROIDS * ROWS_PER_CENTROID, rng))
        last = bounds[-2]
        centroids = np.empty((CENTROIDS, last), np.float32)
        for begin, end in _pairs(bounds[:-1]):
            centroids[:, begin:end] = kmeans(sample[:, begin:end], CENTROIDS, seed, "subspace")
        cluster = np.zeros(n, np.int64)
        if last:
            codes = np.concatenate([np.zeros((0, len(bounds) - 2), np.uint8)] + [
                self._codes(centroids, rows) for rows in source.blocks()
            ])  # fmt: skip
            cluster = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
        sizes = np.bincount(cluster, minlength=1)
        if sizes.max() > _MEMBERS:
            raise ConfigError(
                f"subspace tells at most {_MEMBERS:,} rows of a cluster apart, found {sizes.max():,} that share all "
                "parts but the last; take more parts, or remove equal rows"
            )
        members = kmeans(sample[:, last:], max(CENTROIDS, int(sizes.max())), seed, "subspace")
        member = np.zeros(n, np.uint16)
        shared_rows = np.zeros((int((sizes[cluster] > 1).sum()), dim - last), np.float32)
        start = at = 0
        for rows in source.blocks():
            tail = _finite(rows[:, last:])
            member[start : start + len(rows)] = nearest(members, tail)
            crowded = tail[sizes[cluster[start : start + len(rows)]] > 1]
            shared_rows[at : at + len(crowded)] = crowded
            start, at = start + len(rows), at + len(crowded)
        _tell_apart(member, members, cluster, shared_rows)
        named: Named = {"members": members, "_member": member}
        return named | {"centroids": centroids} if last else named

    # Rows -----------------------------------------------------------------------------------------------------

    def _codes(self, centroids: npt.NDArray[Any], rows: FloatRows) -> npt.NDArray[np.uint8]:
        parts = _pairs(self.bounds(rows.shape[1])[:-1])
        made = [nearest(centroids[:, begin:end], _finite(rows[:, begin:end])) for begin, end in parts]
        return np.stack(made, axis=1).astype(np.uint8)

    def encode(self, shared: Shared, ids: Ids, rows: FloatRows) -> Named:
        if self.kind == "dispersed":
            return {}
        named: Named = {"member": shared["_member"][ids]}
        return named | {"codes": self._codes(shared["centroids"], rows)} if "centroids" in shared else named

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse NaN and inf: there is nowhere to keep them."""
        check_finite(self.id, rows, first_row)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        bounds = _pairs(self.bounds(out.shape[1]))
        if self.kind == "dispersed":
            table = arrays["parts"]
            for digit, (begin, end) in zip(self._digits(ids, len(table)), bounds, strict=True):
                out[:, begin:end] = table[digit, begin:end]
            return
        at = ids - arrays.start
        for p, (begin, end) in enumerate(bounds[:-1]):
            out[:, begin:end] = arrays["centroids"][arrays["codes"][at, p], begin:end]
        out[:, bounds[-1][0] :] = arrays["members"][arrays["member"][at]]


def _pairs(bounds: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(bounds))


def _finite(rows: FloatRows) -> F32:
    """Rows as they are compared: NaN and inf, refused later, as zeros."""
    return np.where(np.isfinite(rows), rows, np.float32(0))


def nearest(centroids: npt.NDArray[Any], rows: FloatRows) -> npt.NDArray[np.int64]:
    """Index of the centroid nearest to each row, the first of equals; a row's does not depend on the rows beside it."""
    found = np.empty(len(rows), np.int64)
    for first in range(0, len(rows), _CHUNK):
        part = rows[first : first + _CHUNK]
        distances = np.zeros((len(part), len(centroids)), np.float32)
        for j in range(part.shape[1]):
            with np.errstate(over="ignore"):
                distances += np.square(part[:, j, None] - centroids[:, j])
        found[first : first + _CHUNK] = distances.argmin(axis=1)
    return found


def _tell_apart(member: npt.NDArray[np.uint16], members: F32, cluster: npt.NDArray[Any], shared_rows: F32) -> None:
    """Give rows of one cluster different members, in order of id the nearest that is free.

    `shared_rows` are the last parts of the rows whose cluster has others, in order of id.
    """
    sizes = np.bincount(cluster, minlength=1)
    ids = np.flatnonzero(sizes[cluster] > 1)
    order = np.argsort(cluster[ids], kind="stable")
    ends = np.flatnonzero(np.diff(cluster[ids[order]], append=-1))
    start = 0
    for end in ends + 1:
        at, start = order[start:end], int(end)
        if len(np.unique(member[ids[at]])) == len(at):
            continue
        free = np.ones(len(members), bool)
        for row in at:
            distances = np.square(members - shared_rows[row]).sum(axis=1)
            distances[~free] = np.inf
            member[ids[row]] = distances.argmin()
            free[member[ids[row]]] = False
