"""Deep hash embeddings (Kang et al., KDD 2021, arXiv 2010.10784): an MLP of many hashes of the id."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ..method import nbytes as nbytes_of
from ._hashing import check_seed, scramble
from ._trained import TrainedMethod

MOST = 2**16
HASHES = (256, 128, 64, 32, 16)
_BLOCK = 4096


@dataclass(frozen=True)
class Dhe(TrainedMethod):
    """Row x is an MLP of k hashes of x: no row is stored, and lookups compute.

    Hash j is ((a_j x + b_j) mod 2^64) div 2^40, 24 bits, with a_j odd; multiply-shift (Dietzfelbinger, 1996) takes the
    place of the paper's two remainders: it is as universal for ids up to 2^40, and one multiplication. Uniform
    encodings are (2 h + 1) / 2^24 - 1, exact in float32; Gaussian ones are made from pairs of them by Box and Muller.

    The paper's network, 1,024 hashes and 5 hidden layers, spends its bytes on the first of many narrow layers. Trained
    with a model for a few epochs, one wide layer of fewer hashes learns more within the same bytes (docs/modules.md).

    Parameters
    ----------
    hashes : k, the length of an encoding, even for "gaussian"; None for 256, or the most of 128, 64, 32 and 16 that the
        hidden layer is at least a quarter as wide as.
    width : values of each hidden layer; None for the widest within a tenth of the table's bytes.
    layers : hidden layers, each linear (batch normalization is folded in), then Mish. One more linear layer ends.
    encoding : "uniform" in (-1, 1) or "gaussian".
    seed : of the hashes.
    """

    id: ClassVar[str] = "dhe"
    shorthand: ClassVar[tuple[str, ...]] = ("width",)
    native_tolerance: ClassVar[float] = 1e-6

    hashes: int | None = None
    width: int | None = None
    layers: int = 1
    encoding: Literal["uniform", "gaussian"] = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("hashes", MOST), ("width", MOST), ("layers", 16)):
            value = getattr(self, name)
            if (value is not None or name == "layers") and (type(value) is not int or not 1 <= value <= most):
                raise ConfigError(f"{name} of dhe must be from 1 to {most}, found {value!r}; leave it out")
        if self.encoding not in ("uniform", "gaussian"):
            raise ConfigError(f"encoding of dhe must be 'uniform' or 'gaussian', found {self.encoding!r}; choose one")
        if self.encoding == "gaussian" and (self.hashes or 0) % 2:
            raise ConfigError(f"hashes of dhe must be even for 'gaussian', found {self.hashes}; add one")
        check_seed(self.id, self.seed)

    def resolve(self, shape: TableShape) -> Self:
        return self._sized(shape, shape.nbytes_float32 // 10)

    def _sized(self, shape: TableShape, nbytes: int) -> Self:
        """Hashes and width, each where it is None; a width of 1 where `nbytes` is too little for any."""
        for hashes in HASHES if self.hashes is None else (self.hashes,):
            found = dataclasses.replace(self, hashes=hashes)
            width = self.width or max(1, found._widest(shape, nbytes))
            if 4 * width >= hashes:
                break
        return dataclasses.replace(found, width=width)

    def sizes(self, dim: int) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each linear layer, of a resolved config."""
        width = self.width or 1
        return (self.hashes or HASHES[-1], width), *[(width, width)] * (self.layers - 1), (width, dim)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        specs = []
        for i, (inputs, outputs) in enumerate(self.sizes(shape.embedding_dim)):
            specs.append(ArraySpec(f"weight{i}", "float32", (inputs, outputs), "shared"))
            specs.append(ArraySpec(f"bias{i}", "float32", (outputs,), "shared"))
        return tuple(specs)

    def _bytes(self, shape: TableShape, width: int) -> int:
        return sum(a.nbytes() for a in dataclasses.replace(self, width=width).layout(shape))

    def _widest(self, shape: TableShape, nbytes: int) -> int:
        """The largest width within `nbytes`; 0 for none."""
        low, high = 0, MOST
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._bytes(shape, middle) <= nbytes else (low, middle - 1)
        return low

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        found = self._sized(shape, nbytes)
        floor = nbytes_of(found, shape)
        if floor > nbytes:
            raise BudgetError(
                f"dhe needs at least {floor:,} bytes with {found.hashes} hashes and a width of {found.width}, found "
                f"a budget of {nbytes:,}; raise it or take fewer hashes",
                floor=floor,
            )
        return found

    def factors(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """a_j and b_j of the hashes."""
        hashed = scramble(np.arange(2 * (self.hashes or 0), dtype=np.int64), self.seed)
        return hashed[::2] | np.uint64(1), hashed[1::2]

    def encodings(self, ids: Ids) -> npt.NDArray[np.float64]:
        """The inputs of the MLP, (n, hashes)."""
        a, b = self.factors()
        hashed = (ids.astype(np.uint64)[:, None] * a + b) >> np.uint64(40)
        if self.encoding == "uniform":
            return (2 * hashed.astype(np.int64) + 1 - 2**24) / 2.0**24
        # The midpoints of 2^24 intervals, so that no logarithm is of zero.
        u = (2 * hashed.astype(np.int64) + 1) / 2.0**25
        radius, angle = np.sqrt(-2 * np.log(u[:, ::2])), 2 * np.pi * u[:, 1::2]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(len(ids), -1)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        """In float64, so that what kernels compute in float32 can be held against it."""
        for first in range(0, len(ids), _BLOCK):
            x = self.encodings(ids[first : first + _BLOCK])
            for i in range(self.layers + 1):
                x = x @ arrays[f"weight{i}"].astype(np.float64) + arrays[f"bias{i}"].astype(np.float64)
                if i < self.layers:
                    x = mish(x)
            out[first : first + _BLOCK] = x

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        named: Named = {}
        for i, (inputs, outputs) in enumerate(self.sizes(shape.embedding_dim)):
            scale = np.float32(inputs**-0.5 * (1 if i else 3**0.5))
            named[f"weight{i}"] = rng.standard_normal((inputs, outputs), dtype=np.float32) * scale
            named[f"bias{i}"] = rng.standard_normal(outputs, dtype=np.float32) * np.float32(0.1)
        return named


def mish(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """z tanh(log(1 + e^z)) (Misra, BMVC 2020), as z n / (n + 2) with n = e^z (e^z + 2): one exponential."""
    e = np.exp(np.minimum(z, 20.0))  # from 20 on the quotient is 1 in float32
    n = e * (e + 2)
    found: npt.NDArray[np.float64] = z * (n / (n + 2))
    return found


def trained_weights(width: int, dim: int, hashes: int = 1024, layers: int = 5) -> int:
    """Weights that training has: linear layers, and scale and shift of each batch normalization."""
    hidden = (hashes + 1) * width + (layers - 1) * width * (width + 1)
    return hidden + 2 * layers * width + (width + 1) * dim


def solve_width(field_sizes: Sequence[int], dim: int, ratio: float, hashes: int = 1024) -> int:
    """The largest width, one for all fields, at which the trained weights are within a ratio of the tables'.

    A field stays full where that is smaller. Raises `BudgetError` where no width reaches the ratio.
    """
    full = sum(field_sizes) * dim

    def spent(width: int) -> int:
        return sum(min(n * dim, trained_weights(width, dim, hashes)) for n in field_sizes)

    low, high = 0, MOST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if spent(middle) <= ratio * full else (low, middle - 1)
    if low == 0:
        raise BudgetError(f"one width for these fields needs a ratio of at least {spent(1) / full:.6f}, found {ratio}")
    return low
