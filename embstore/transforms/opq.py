"""Optimized product quantization (Ge, He, Ke, Sun, TPAMI 2014): the rotation that suits product codes best."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ..arrays import ArraySpec
from ..errors import ConfigError
from ..kmeans import even_slices, finite_rows, kmeans, nearest, on_threads
from ..method import FloatRows, Method, Named, Sliced
from ..products import multiply
from ..transform import F32, Shared, Transform
from ._linear import principal

_FIT_ROWS = 1 << 15
_ROUNDS = 20


@dataclass(frozen=True)
class OPQ(Transform):
    """A rotation learned together with product codes; alone, "opq16" stands for "opq16,pq16".

    Starts from principal components dealt out to the slices so that these have equal products of variances; then
    codes and rotation are made best for each other in turn.

    Parameters
    ----------
    m : slices of the codes that follow; None for those of the method, or one of about 4 values each.
    dim : values kept; None for all.
    bits : bits of the codes that follow; None for those of the method, or 8.
    """

    id: ClassVar[str] = "opq"
    shorthand: ClassVar[tuple[str, ...]] = ("m", "dim")
    companion: ClassVar[str] = "pq"

    m: int | None = None
    dim: int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("m", "dim"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} of opq must be a positive integer, found {value!r}; leave it out")
        if self.bits is not None and (type(self.bits) is not int or not 1 <= self.bits <= 16):
            raise ConfigError(f"bits of opq must be between 1 and 16, found {self.bits!r}; 8 suits most")

    def suit(self, method: Method, dim: int) -> Self:
        if not isinstance(method, Sliced):
            return self
        return dataclasses.replace(self, m=self.m or len(method.slices(dim)), bits=self.bits or method.bits)

    def resolve(self, dim: int) -> Self:
        if self.dim is not None and self.dim > dim:
            raise ConfigError(f"dim of opq must be at most the {dim} values of a row, found {self.dim}")
        kept = self.dim or dim
        if self.m is not None and self.m > kept:
            raise ConfigError(f"m of opq must be at most the {kept} values it keeps, found {self.m}")
        return dataclasses.replace(self, dim=kept, m=self.m or max(1, kept // 4), bits=self.bits or 8)

    def code_dim(self, dim: int) -> int:
        return self.dim or dim

    def layout(self, dim: int) -> tuple[ArraySpec, ...]:
        return (ArraySpec("components", "float32", (self.code_dim(dim), dim), "shared"),)

    def fit(self, sample: FloatRows, rng: np.random.Generator) -> Named:
        x = finite_rows(sample)
        if len(x) > _FIT_ROWS:
            x = x[np.sort(rng.choice(len(x), _FIT_ROWS, replace=False))]
        kept, m, count = self.code_dim(x.shape[1]), self.m or 1, 1 << (self.bits or 8)
        _, components, variances = principal(x, kept)
        slices = even_slices(kept, m)
        rotation = components[deal(variances[:kept], [last - first for first, last in slices])]
        # With no more rows than centroids codes are exact, and no rotation is better than another.
        if len(x) <= count:
            return {"components": rotation.astype(np.float32)}
        seed = int(rng.integers(1, 1 << 30))
        centroids: list[F32 | None] = [None] * m
        best, least = rotation, np.inf
        exact = x.astype(np.float64)
        for _ in range(_ROUNDS):
            codes = (exact @ rotation.T).astype(np.float32)
            decoded = np.empty_like(codes)
            on_threads(functools.partial(_code, codes, decoded, centroids, slices, count, seed), range(m), "opq")
            # What the rotation leaves out of a row counts as well: rows have the same length in every round.
            error = float(np.square(codes - decoded, dtype=np.float64).sum() - np.square(codes, dtype=np.float64).sum())
            if error < least:
                best, least = rotation, error
            left, _, right = np.linalg.svd(decoded.astype(np.float64).T @ exact, full_matrices=False)
            rotation = left @ right
        return {"components": best.astype(np.float32)}

    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        codes: FloatRows = rows @ shared["components"].T
        return codes

    def undo(self, shared: Shared, codes: FloatRows, weights: F32 | None = None) -> FloatRows:
        return multiply(codes, shared["components"])

    def adjoint(self, shared: Shared, queries: FloatRows) -> tuple[FloatRows, F32]:
        return queries @ shared["components"].T, np.zeros(len(queries), np.float32)


def _code(
    codes: F32, decoded: F32, centroids: list[F32 | None], slices: list[tuple[int, int]], count: int, seed: int, s: int
) -> None:
    """Better centroids of slice `s`, and its columns of `decoded`."""
    first, last = slices[s]
    part = np.ascontiguousarray(codes[:, first:last])
    found = kmeans(part, count, seed, "opq", iterations=4 if centroids[s] is not None else 10, start=centroids[s])
    decoded[:, first:last] = found[nearest(part, found, "opq")]
    centroids[s] = found


def deal(variances: npt.NDArray[Any], sizes: list[int]) -> npt.NDArray[np.intp]:
    """Which component goes to each place: the next largest to the slice of least product that has room."""
    logs = np.log(np.maximum(variances, variances.max(initial=0.0) * 1e-12 + 1e-300))
    logs -= logs.min()
    buckets: list[list[int]] = [[] for _ in sizes]
    totals = np.zeros(len(sizes))
    for i, log in enumerate(logs):
        room = [b for b, size in enumerate(sizes) if len(buckets[b]) < size]
        chosen = min(room, key=lambda b: (totals[b], b))
        buckets[chosen].append(i)
        totals[chosen] += log
    return np.array([i for bucket in buckets for i in bucket], np.intp)
