"""Residual, or additive, quantization (Chen, Guan, Wang, Sensors 2010; Babenko, Lempitsky, CVPR 2014)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..kmeans import ROWS_PER_CENTROID, finite_rows, kmeans, nearest, on_threads
from ..method import FloatRows, Ids, Named, RowMethod, Rows, nbytes
from ..optional import faiss
from ._bits import pack, packed_bytes, unpack
from .pq import LANES, check_codes, gaussian_distortion, round_codebooks

F32 = npt.NDArray[np.float32]
Shared = Mapping[str, npt.NDArray[Any]]

_BLOCK_VALUES = 1 << 22
# Rows that one thread encodes at a time while fitting.
_FAST_ROWS = 1 << 10
_ROUNDS, _SWEEPS = 8, 3
# Rows codebooks are made best for jointly, at least: together they have more values than one that k-means learns.
_LEAST_ROWS = 1 << 16


@dataclass(frozen=True)
class RQ(RowMethod):
    """A row is the sum of m codewords, one of each codebook.

    Parameters
    ----------
    m : codebooks; None for one of about 8 values of a row.
    bits : bits of a code, so 2**bits codewords a codebook; codes are packed.
    beam : partial sums kept by the encoder: twice as many, twice the time.
    codebook_dtype : "float32" or "float16"; codebooks are m * 2**bits * dim values for the table.

    Codebooks are learned stage by stage, then jointly: rows are encoded again and every codebook is made best for
    the others in turn. A row that holds a NaN or an infinity gets codes 0.
    """

    id: ClassVar[str] = "rq"
    shorthand: ClassVar[tuple[str, ...]] = ("m", "bits")

    m: int | None = None
    bits: int = 8
    beam: int = 8
    codebook_dtype: Literal["float16", "float32"] = "float32"

    def __post_init__(self) -> None:
        check_codes(self.id, self.m, self.bits, self.codebook_dtype)
        if type(self.beam) is not int or not 1 <= self.beam <= 64:
            raise ConfigError(f"beam of rq must be between 1 and 64, found {self.beam!r}; 8 suits most")

    def resolve(self, shape: TableShape) -> Self:
        return dataclasses.replace(self, m=self.m or max(1, shape.embedding_dim // 8))

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        m, dim = self.m or 0, shape.embedding_dim
        return (
            ArraySpec("codes", "uint8", (shape.num_embeddings, packed_bytes(m, self.bits)), "rows"),
            ArraySpec("codebooks", self.codebook_dtype, (m, 1 << self.bits, dim), "shared"),
        )

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """The m and bits, 4 to 8, of least expected error on Gaussian rows, with float16 codebooks."""
        options = [
            dataclasses.replace(self, m=m, bits=bits, codebook_dtype="float16")
            for bits in range(4, 9)
            for m in range(1, shape.embedding_dim + 1)
        ]
        fitting = [o for o in options if nbytes(o, shape) <= nbytes_]
        if not fitting:
            floor = min(nbytes(o, shape) for o in options)
            raise BudgetError(
                f"rq needs at least {floor:,} bytes for {shape}, found a budget of {nbytes_:,}; raise it or take pq",
                floor=floor,
            )

        def error(option: Self) -> float:
            # As of product codes of so many values each: few large codebooks lose less than many small ones.
            m, dim = option.m or 1, shape.embedding_dim
            return gaussian_distortion(m * option.bits / dim, dim / m)

        return min(fitting, key=error)

    @property
    def centroids(self) -> int:
        return 1 << self.bits

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        m, count, dim = self.m or 1, 1 << self.bits, source.shape.embedding_dim
        x = finite_rows(source.sample(max(_LEAST_ROWS, ROWS_PER_CENTROID * count), rng))
        seed = int(rng.integers(1, 1 << 30))
        codebooks = np.zeros((m, count, dim), np.float32)
        rest = x.copy()
        for s in range(m):
            codebooks[s] = kmeans(rest, count, seed + s, "rq")
            if len(rest):
                rest -= codebooks[s][nearest(rest, codebooks[s], "rq")]
        # Fewer rows than centroids are exact after the first codebook: the others are zeros.
        if len(x) > count:
            codebooks = self._refine(x, codebooks)
        return {"codebooks": round_codebooks(codebooks, self.codebook_dtype)}

    def _refine(self, x: F32, codebooks: F32) -> F32:
        best, least = codebooks, np.inf
        for turn in range(_ROUNDS + 1):
            codes = self._encode_fast(x, codebooks)
            decoded = sum_codewords(codebooks, codes)
            error = float(np.square(x - decoded, dtype=np.float64).sum())
            if error < least:
                best, least = codebooks, error
            if turn == _ROUNDS:
                break
            codebooks = codebooks.copy()
            rest = x - decoded
            for _ in range(_SWEEPS):
                for s, book in enumerate(codebooks):
                    target = rest + book[codes[:, s]]
                    codebooks[s] = means(target, codes[:, s], book)
                    rest = target - codebooks[s][codes[:, s]]
        return best

    def _encode_fast(self, x: F32, codebooks: F32) -> npt.NDArray[Any]:
        """Codes by FAISS's beam search, for fitting."""
        m, _, dim = codebooks.shape
        coder = faiss("fitting rq").ResidualQuantizer(dim, m, self.bits)
        faiss("fitting rq").copy_array_to_vector(codebooks.ravel(), coder.codebooks)
        coder.max_beam_size, coder.is_trained = self.beam, True
        blocks = [x[i : i + _FAST_ROWS] for i in range(0, len(x), _FAST_ROWS)]
        packed: npt.NDArray[np.uint8] = np.concatenate(on_threads(coder.compute_codes, blocks, "rq"))
        return unpack(packed[:, : packed_bytes(m, self.bits)], self.bits, m)

    def encode(self, shared: Shared, ids: Ids, rows: FloatRows) -> Named:
        codebooks = shared["codebooks"].astype(np.float32)
        codes = np.zeros((len(rows), self.m or 0), np.uint16)
        step = max(1, _BLOCK_VALUES // (self.beam << self.bits))
        with np.errstate(all="ignore"):
            for at in range(0, len(rows), step):
                codes[at : at + step] = self._beam_search(rows[at : at + step], codebooks)
        codes[~np.isfinite(rows).all(axis=1)] = 0
        return {"codes": pack(codes, self.bits)}

    def _beam_search(self, x: F32, codebooks: F32) -> npt.NDArray[Any]:
        """Of every partial sum and next codeword the `beam` nearest, the first of equals, each operation rounded."""
        n, dim = x.shape
        rest, path = x[:, None, :], np.zeros((n, 1, 0), np.uint16)
        at = np.arange(n)[:, None]
        for book in codebooks:
            distances = np.zeros((n, rest.shape[1], len(book)), np.float32)
            for j in range(dim):
                away = rest[:, :, j, None] - book[:, j]
                distances += away * away
            flat = distances.reshape(n, -1)
            flat[np.isnan(flat)] = np.inf
            found = np.argsort(flat, axis=1, kind="stable")[:, : self.beam]
            parent, code = found // len(book), found % len(book)
            rest = rest[at, parent] - book[code]
            path = np.concatenate([path[at, parent], code[:, :, None].astype(np.uint16)], axis=2)
        return path[:, 0]

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        codes = unpack(arrays["codes"][ids - arrays.start], self.bits, self.m or 0)
        out[:] = sum_codewords(arrays["codebooks"], codes)

    def constants(self, shared: Shared) -> Named:
        tables = shared["codebooks"].astype(np.float32)
        m, count, dim = tables.shape
        # Codewords as lanes; infinity is nearest to nothing.
        columns = np.full((m, dim, -(-count // LANES) * LANES), np.inf, np.float32)
        columns[:, :, :count] = tables.transpose(0, 2, 1)
        return {"tables": tables, "columns": columns}


def sum_codewords(codebooks: npt.NDArray[Any], codes: npt.NDArray[Any]) -> F32:
    """The codewords that `codes` (n, m) name, added in the order of codebooks."""
    total: F32 = codebooks[0][codes[:, 0]].astype(np.float32)
    for s in range(1, len(codebooks)):
        total += codebooks[s][codes[:, s]].astype(np.float32)
    return total


def means(rows: F32, codes: npt.NDArray[Any], otherwise: F32) -> F32:
    """The mean of the rows of each code; `otherwise` for a code that no row has."""
    order = np.argsort(codes, kind="stable")
    present, first = np.unique(codes[order], return_index=True)
    found = otherwise.copy()
    sums = np.add.reduceat(rows[order], first, axis=0, dtype=np.float64)
    found[present] = sums / np.diff(np.append(first, len(codes)))[:, None]
    return found
