"""A pseudorandom rotation by signs and Hadamard transforms: every value gets a share of every other.

After it, values are nearly Gaussian whatever the rows were, which is what uniform and Lloyd-Max codes want (Ailon and
Chazelle, 2006). Costs dim * log2(dim) additions a stage and dim / 8 bytes for the table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ..arrays import ArraySpec
from ..errors import ConfigError
from ..method import FloatRows, Named
from ..transform import F32, Shared, Transform


def hadamard(x: FloatRows) -> None:
    """The orthonormal Walsh-Hadamard transform of each row of `x` (n, 2**k), in place, smallest butterflies first."""
    n, p = x.shape
    for log in range(p.bit_length() - 1):
        pairs = x.reshape(n, p >> (log + 1), 2, 1 << log)
        first, second = pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]
        pairs[:, :, 0], pairs[:, :, 1] = first, second
    x *= np.float32(1.0 / np.sqrt(p))


@dataclass(frozen=True)
class Rotate(Transform):
    """A pseudorandom rotation by signs and Hadamard transforms, for rows of any length.

    Stage s flips signs and transforms a window of p values, p the largest power of two not above the row's length:
    the first p values for even s, the last p for odd s.

    Parameters
    ----------
    stages : None for 2 where the length is a power of two, else 4.
    """

    id: ClassVar[str] = "rotate"

    stages: int | None = None

    def __post_init__(self) -> None:
        if self.stages is not None and (type(self.stages) is not int or not 1 <= self.stages <= 16):
            raise ConfigError(f"stages of rotate must be between 1 and 16, found {self.stages!r}; leave it out")

    def resolve(self, dim: int) -> Self:
        return dataclasses.replace(self, stages=self.stages or (2 if dim & (dim - 1) == 0 else 4))

    def layout(self, dim: int) -> tuple[ArraySpec, ...]:
        return (ArraySpec("signs", "uint8", (self.stages or 0, -(-dim // 8)), "shared"),)

    def fit(self, sample: FloatRows, rng: np.random.Generator) -> Named:
        dim = sample.shape[1]
        bits = rng.integers(0, 2, (self.stages or 0, dim), np.uint8)
        return {"signs": np.packbits(bits, axis=1, bitorder="little")}

    def _stages(self, shared: Shared, dim: int) -> list[tuple[npt.NDArray[Any], slice]]:
        flips = np.unpackbits(shared["signs"], axis=1, count=dim, bitorder="little").astype(np.float32)
        p = 1 << (dim.bit_length() - 1)
        return [(1 - 2 * f, slice(0, p) if s % 2 == 0 else slice(dim - p, dim)) for s, f in enumerate(flips)]

    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        x = np.array(rows, np.float32)
        for signs, window in self._stages(shared, x.shape[1]):
            x *= signs
            part = np.ascontiguousarray(x[:, window])
            hadamard(part)
            x[:, window] = part
        return x

    def undo(self, shared: Shared, codes: FloatRows, weights: F32 | None = None) -> FloatRows:
        x = np.array(codes, np.float32)
        for signs, window in reversed(self._stages(shared, x.shape[1])):
            part = np.ascontiguousarray(x[:, window])
            hadamard(part)
            x[:, window] = part
            x *= signs
        return x

    def adjoint(self, shared: Shared, queries: FloatRows) -> tuple[FloatRows, F32]:
        return self.apply(shared, queries), np.zeros(len(queries), np.float32)
