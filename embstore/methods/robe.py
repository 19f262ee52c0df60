"""Random offset block embedding (Desai, Chou, Shrivastava, MLSys 2022, arXiv 2108.02191): rows cut from one pool."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ._hashing import check_seed, scramble
from ._trained import TrainedMethod, random_floats

# The prime of the authors' code. A pool longer than that would have values that no row uses.
PRIME = 2038074743
# Of the largest magnitude, that an int8 pool reaches to: a trained pool has few values far out.
_SHARES = (1.0, 0.85, 0.7, 0.55, 0.4)


@dataclass(frozen=True)
class Robe(TrainedMethod):
    """A row is chunks of `chunk` consecutive values of one pool, each from an offset that a hash of (id, chunk) gives.

    Parameters
    ----------
    size : values in the pool; None for a tenth of the table's.
    chunk : values read in one run; None for 16, a cache line, or the row where that is shorter. The last chunk of a row
        may be cut.
    wrap : whether a run may go on at the pool's beginning; otherwise no run starts within chunk - 1 of the end, so that
        the values at both ends are in fewer runs, and every run is contiguous in memory.
    sign : multiply each value by a hashed sign, so that rows that share values cancel out on average in a dot product.
    seed : of the hashes.
    pool_dtype : "float32", or "int8": signed codes times one step for the whole pool. Training keeps float32; in
        evaluation the module gives what the codes stand for.
    """

    id: ClassVar[str] = "robe"
    shorthand: ClassVar[tuple[str, ...]] = ("chunk",)
    later: ClassVar[tuple[str, ...]] = ("pool_dtype",)

    size: int | None = None
    chunk: int | None = None
    wrap: bool = False
    sign: bool = False
    seed: int = 0
    pool_dtype: Literal["float32", "int8"] = "float32"

    def __post_init__(self) -> None:
        for name, most in (("size", PRIME), ("chunk", 2**20)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise ConfigError(f"{name} of robe must be from 1 to {most}, found {value!r}; leave it out")
        for name in ("wrap", "sign"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} of robe must be true or false, found {getattr(self, name)!r}")
        check_seed(self.id, self.seed)
        if self.pool_dtype not in ("float32", "int8"):
            raise ConfigError(f"pool_dtype of robe must be 'float32' or 'int8', found {self.pool_dtype!r}; choose one")

    def resolve(self, shape: TableShape) -> Self:
        chunk = min(self.chunk or 16, shape.embedding_dim)
        values = shape.num_embeddings * shape.embedding_dim
        size = self.size or min(PRIME, max(chunk, -(-values // 10)))
        if size < chunk:
            raise ConfigError(
                f"size of robe must be at least a chunk of {chunk}, found {size}; make the pool larger or the chunk "
                "smaller"
            )
        return dataclasses.replace(self, size=size, chunk=chunk)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        pool = ArraySpec("pool", self.pool_dtype, (self.size or 1,), "shared")
        return (pool,) if self.pool_dtype == "float32" else (pool, ArraySpec("step", "float32", (1,), "shared"))

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        chunk = min(self.chunk or 16, shape.embedding_dim)
        step, each = (0, 4) if self.pool_dtype == "float32" else (4, 1)
        floor = step + each * (chunk if self.size is None else self.size)
        if nbytes < floor:
            raise BudgetError(
                f"robe needs at least {floor:,} bytes, one chunk, found a budget of {nbytes:,}; raise it or make the "
                "chunk smaller",
                floor=floor,
            )
        # Of codes more than the table has values: the fewer rows share each, the better.
        size = self.size or min(max(chunk, (min(nbytes, shape.nbytes_float32) - step) // each), PRIME)
        return dataclasses.replace(self, size=size, chunk=chunk)

    def factors(self) -> tuple[int, ...]:
        """B, C, D of the offsets and B', C', D' of the signs: from 1 to PRIME - 1, by the seed."""
        hashed = scramble(np.arange(6, dtype=np.int64), self.seed) % np.uint64(PRIME - 1)
        return tuple(int(h) + 1 for h in hashed)

    def starts(self) -> int:
        """How many places of the pool a chunk can start at."""
        size, chunk = self.size or 1, self.chunk or 1
        return size if self.wrap else size - chunk + 1

    def _hash(self, ids: Ids, step: npt.NDArray[np.int64], by_id: int, by_step: int, plus: int) -> Ids:
        """(by_id x + by_step s + plus) mod PRIME, (n, len(step)); ids are reduced first, so that 64 bits hold it."""
        x = (ids % PRIME * by_id)[:, None]
        found: Ids = (x + (step * by_step + plus)) % PRIME
        return found

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        dim, size, chunk = out.shape[1], self.size or 1, self.chunk or 1
        b, c, d, b_sign, c_sign, d_sign = self.factors()
        j = np.arange(dim)
        first = self._hash(ids, np.arange(-(-dim // chunk)), b, c, d) % self.starts()
        at = first[:, j // chunk] + j % chunk
        out[:] = arrays["pool"][at % size if self.wrap else at]
        if self.pool_dtype == "int8":
            out *= arrays["step"].astype(np.float32)
        if self.sign:
            odd = self._hash(ids, j, b_sign, c_sign, d_sign) & 1
            out *= (2 * odd - 1).astype(np.float32)

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        return self.encode_pool(random_floats(rng, self.size or 1))

    def encode_pool(self, pool: npt.NDArray[np.float32]) -> Named:
        """The pool as it is stored; its codes have the step of least squared error among shares of the full range."""
        if self.pool_dtype == "float32":
            return {"pool": pool}
        largest = max(float(pool.max()), -float(pool.min()))
        best: tuple[float, Named] | None = None
        for share in _SHARES:
            step = np.float32(max(largest * share / 127, 1e-30))
            codes = np.clip(np.rint(pool / step), -127, 127).astype(np.int8)
            error = float(np.square(pool - codes * step, dtype=np.float64).sum())
            if best is None or error < best[0]:
                best = error, {"pool": codes, "step": np.array([step], np.float32)}
        assert best is not None
        return best[1]
