"""Product quantization (Jégou, Douze, Schmid, TPAMI 2011): each slice of a row is the nearest of its own centroids."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..kmeans import ROWS_PER_CENTROID, even_slices, finite_rows, kmeans_each
from ..method import FloatRows, Ids, Named, RowMethod, Rows, nbytes
from ._bits import pack, packed_bytes, unpack

F32 = npt.NDArray[np.float32]
Shared = Mapping[str, npt.NDArray[Any]]

# Lanes of the native encoder: columns of the transposed codebooks are padded to a multiple of it.
LANES = 16
_BLOCK_VALUES = 1 << 20


def check_codes(method_id: str, m: int | None, bits: int, codebook_dtype: str) -> None:
    """`ConfigError` for the fields that pq and rq share."""
    if m is not None and (type(m) is not int or m < 1):
        raise ConfigError(f"m of {method_id} must be a positive integer, found {m!r}; leave it out for the default")
    if type(bits) is not int or not 1 <= bits <= 16:
        raise ConfigError(f"bits of {method_id} must be between 1 and 16, found {bits!r}; 8 suits most")
    if codebook_dtype not in ("float16", "float32"):
        raise ConfigError(f"codebook_dtype of {method_id} must be 'float16' or 'float32', found {codebook_dtype!r}")


def round_codebooks(codebooks: F32, dtype: str) -> npt.NDArray[Any]:
    """Codebooks in the dtype they are stored in; float16 keeps to its finite range."""
    if dtype == "float16":
        codebooks = np.clip(codebooks, -65504.0, 65504.0)
    return np.ascontiguousarray(codebooks, dtype)


def gaussian_distortion(bits_per_value: float, values: float) -> float:
    """Squared error of the best fixed-rate code of `values` jointly coded Gaussian values of variance 1 (Zador, 1982).

    The quantization coefficient is that of a sphere, which is what k-means comes close to.
    """
    k = max(values, 1.0)
    sphere = math.exp(math.lgamma(k / 2 + 1) * 2 / k) / ((k + 2) * math.pi)
    density = 2 * math.pi * ((k + 2) / k) ** ((k + 2) / 2)
    return float(min(1.0, sphere * density * 4.0**-bits_per_value))


@dataclass(frozen=True)
class PQ(RowMethod):
    """Slices of a row as codes of their nearest centroids.

    Slice s of m has the columns floor(s * dim / m) up to floor((s + 1) * dim / m): m need not divide the row.

    Parameters
    ----------
    m : slices; None for one of about 4 values each.
    bits : bits of a code, so 2**bits centroids a slice; codes are packed.
    codebook_dtype : "float32" or "float16"; codebooks are 2**bits * dim values for the table, whatever m is.

    Centroids come from at most 256 * 2**bits rows, rows with NaN or infinities left out. A slice that holds a NaN or
    an infinity gets code 0. A table of fewer rows than centroids stores its rows as centroids and so is exact.
    """

    id: ClassVar[str] = "pq"
    shorthand: ClassVar[tuple[str, ...]] = ("m", "bits")

    m: int | None = None
    bits: int = 8
    codebook_dtype: Literal["float16", "float32"] = "float32"

    def __post_init__(self) -> None:
        check_codes(self.id, self.m, self.bits, self.codebook_dtype)

    def resolve(self, shape: TableShape) -> Self:
        dim = shape.embedding_dim
        if self.m is not None and self.m > dim:
            raise ConfigError(f"m of pq must be at most the {dim} values of a row, found {self.m}")
        return dataclasses.replace(self, m=self.m or max(1, dim // 4))

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        codes = packed_bytes(self.m or 0, self.bits)
        return (
            ArraySpec("codes", "uint8", (shape.num_embeddings, codes), "rows"),
            ArraySpec("codebooks", self.codebook_dtype, (1 << self.bits, shape.embedding_dim), "shared"),
        )

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """The m, 4 to 8 bits and codebook dtype of least expected error on Gaussian rows."""
        dim = shape.embedding_dim
        options = [
            dataclasses.replace(self, m=m, bits=bits, codebook_dtype=dtype)
            for dtype in ("float32", "float16")
            for bits in range(4, 9)
            for m in range(1, dim + 1)
        ]
        costs = [nbytes(o, shape) for o in options]
        fitting = [o for o, cost in zip(options, costs, strict=True) if cost <= nbytes_]
        if not fitting:
            raise BudgetError(
                f"pq needs at least {min(costs):,} bytes for {shape}, found a budget of {nbytes_:,}; "
                "raise it or take fewer values by pca first",
                floor=min(costs),
            )

        def error(option: Self) -> float:
            assert option.m is not None
            return gaussian_distortion(option.m * option.bits / dim, dim / option.m)

        return min(fitting, key=error)

    @property
    def centroids(self) -> int:
        return 1 << self.bits

    def slices(self, dim: int) -> list[tuple[int, int]]:
        """The first column of each slice, and the one after its last."""
        return even_slices(dim, self.m or 1)

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        count = self.centroids
        sample = finite_rows(source.sample(ROWS_PER_CENTROID * count, rng))
        seed = int(rng.integers(1, 1 << 30))
        codebooks = np.empty((count, source.shape.embedding_dim), np.float32)
        slices = self.slices(source.shape.embedding_dim)
        parts = [sample[:, first:last] for first, last in slices]
        for (first, last), found in zip(slices, kmeans_each(parts, count, seed, "pq"), strict=True):
            codebooks[:, first:last] = found
        return {"codebooks": round_codebooks(codebooks, self.codebook_dtype)}

    def encode(self, shared: Shared, ids: Ids, rows: FloatRows) -> Named:
        codebooks = shared["codebooks"].astype(np.float32)
        n, dim = rows.shape
        codes = np.empty((n, self.m or 0), np.uint16)
        step = max(1, _BLOCK_VALUES >> self.bits)
        with np.errstate(all="ignore"):
            for s, (first, last) in enumerate(self.slices(dim)):
                for at in range(0, n, step):
                    codes[at : at + step, s] = _nearest(rows[at : at + step, first:last], codebooks[:, first:last])
        return {"codes": pack(codes, self.bits)}

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        codes = unpack(arrays["codes"][ids - arrays.start], self.bits, self.m or 0)
        for s, (first, last) in enumerate(self.slices(out.shape[1])):
            out[:, first:last] = arrays["codebooks"][codes[:, s], first:last]

    def constants(self, shared: Shared) -> Named:
        codebooks = shared["codebooks"].astype(np.float32)
        count, dim = codebooks.shape
        # Of each slice in turn its centroids, so that a slice is one run of bytes.
        tables = [codebooks[:, first:last].ravel() for first, last in self.slices(dim)]
        # Centroids as lanes; infinity is nearest to nothing.
        columns = np.full((dim, -(-count // LANES) * LANES), np.inf, np.float32)
        columns[:, :count] = codebooks.T
        return {"tables": np.concatenate(tables), "columns": columns}


def _nearest(rows: F32, centroids: F32) -> npt.NDArray[np.intp]:
    """The nearest centroid, the first of equals: squares are added in the order of columns, each operation rounded."""
    distances = np.zeros((len(rows), len(centroids)), np.float32)
    for j in range(rows.shape[1]):
        away = rows[:, j : j + 1] - centroids[:, j]
        distances += away * away
    distances[np.isnan(distances)] = np.inf
    found: npt.NDArray[np.intp] = distances.argmin(axis=1)
    return found
