"""Fourier features of the id through a small MLP (Ndubuaku & Talhi 2025, arXiv 2505.02266, "PETE")."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ._trained import TrainedMethod, random_floats

MOST = 2**16
MORE = (8, 4, 2)
_BLOCK = 4096
# Taylor's polynomial of sin(pi z / 2) / z in z^2, highest power first: off by 7e-10 at most. csrc/methods/fourier.cpp
# and embstore/nn/fourier.py evaluate the same, in float64, so that features have the same bits everywhere.
SINE = (
    5.692172921967926e-08,
    -3.598843235212085e-06,
    0.00016044118478735983,
    -0.004681754135318687,
    0.07969262624616703,
    -0.6459640975062462,
    1.5707963267948966,
)


@dataclass(frozen=True)
class Fourier(TrainedMethod):
    """Row x is a gated layer of the sines and cosines of x at a few frequencies: no row is stored.

    The paper's x in [-1, 1], a whole turn of the lowest frequency, gives the first and the last id the same features;
    here the lowest frequency makes half a turn. Its frequencies 1, 2, 3, … make neighbouring ids nearly the same, for
    ids whose order means something; "geometric" ones tell every two ids apart.

    Parameters
    ----------
    features : sines and cosines, half each; None for as many as a row has values (one more if that is odd), as in the
        paper, and within a budget for 8, 4 or 2 times as many if the hidden layer is at least half as wide.
    width : values of the hidden layer, each the product of a linear one and GELU of another; None for 4 times the
        length of a row, as in the paper.
    frequencies : half turns over all ids: "geometric", from 1 to half the number of ids, or the paper's "linear".
    residual : add feature j to value j of the row, as the paper does.
    """

    id: ClassVar[str] = "fourier"
    shorthand: ClassVar[tuple[str, ...]] = ("width",)
    native_tolerance: ClassVar[float] = 1e-6

    features: int | None = None
    width: int | None = None
    frequencies: Literal["geometric", "linear"] = "geometric"
    residual: bool = True

    def __post_init__(self) -> None:
        for name in ("features", "width"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= MOST):
                raise ConfigError(f"{name} of fourier must be from 1 to {MOST}, found {value!r}; leave it out")
        if self.features is not None and self.features % 2:
            raise ConfigError(f"features of fourier must be even, sines and cosines, found {self.features}; add one")
        if self.frequencies not in ("geometric", "linear"):
            raise ConfigError(
                f"frequencies of fourier must be 'geometric' or 'linear', found {self.frequencies!r}; choose one"
            )
        if type(self.residual) is not bool:
            raise ConfigError(f"residual of fourier must be True or False, found {self.residual!r}; choose one")

    def _with_features(self, shape: TableShape) -> Self:
        return dataclasses.replace(self, features=self.features or min(MOST, -(-shape.embedding_dim // 2) * 2))

    def resolve(self, shape: TableShape) -> Self:
        width = self.width or min(MOST, 4 * shape.embedding_dim)
        return dataclasses.replace(self._with_features(shape), width=width)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        features, width = self.features or 2, self.width or 1
        return (
            ArraySpec("steps", "uint64", (features // 2,), "shared"),
            ArraySpec("weight0", "float32", (features, 2 * width), "shared"),
            ArraySpec("bias0", "float32", (2 * width,), "shared"),
            ArraySpec("weight1", "float32", (width, shape.embedding_dim), "shared"),
            ArraySpec("bias1", "float32", (shape.embedding_dim,), "shared"),
        )

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        sized = self._with_features(shape)
        if self.features is None and self.width is None:
            for times in MORE:
                most = dataclasses.replace(sized, features=min(MOST, times * (sized.features or 2)))
                if 2 * most._widest(shape, nbytes) >= (most.features or 2):
                    sized = most
                    break
        least = self.width or 1
        if (floor := sized._bytes(shape, least)) > nbytes:
            raise BudgetError(
                f"fourier needs at least {floor:,} bytes with {sized.features} features and a width of {least}, "
                f"found a budget of {nbytes:,}; raise it or take fewer features",
                floor=floor,
            )
        return dataclasses.replace(sized, width=self.width or sized._widest(shape, nbytes))

    def _bytes(self, shape: TableShape, width: int) -> int:
        return sum(a.nbytes() for a in dataclasses.replace(self, width=width).layout(shape))

    def _widest(self, shape: TableShape, nbytes: int) -> int:
        """The largest width within `nbytes`, which are linear in it; 0 or less for none."""
        one = self._bytes(shape, 1)
        return min(MOST, 1 + (nbytes - one) // (self._bytes(shape, 2) - one))

    def steps(self, shape: TableShape) -> npt.NDArray[np.uint64]:
        """How far each frequency turns from an id to the middle between it and the next, in turns of 2^-64."""
        count, n = (self.features or 2) // 2, max(shape.num_embeddings, 1)
        if self.frequencies == "linear":
            halves = list(range(1, count + 1))
        else:
            halves = [max(1, round((n / 2) ** (j / max(count - 1, 1)))) for j in range(count)]
        # Half turns over 2 n such steps; whole turns do nothing.
        return np.array([((k << 64) + 2 * n) // (4 * n) % 2**64 for k in halves], np.uint64)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        """In float64 but for the features, so that what kernels compute in float32 can be held against it."""
        width, dim = self.width or 1, out.shape[1]
        named = {name: arrays[name].astype(np.float64) for name in ("weight0", "bias0", "weight1", "bias1")}
        for first in range(0, len(ids), _BLOCK):
            x = features_of(arrays["steps"], ids[first : first + _BLOCK])
            hidden = x.astype(np.float64) @ named["weight0"] + named["bias0"]
            rows = (hidden[:, :width] * gelu(hidden[:, width:])) @ named["weight1"] + named["bias1"]
            if self.residual:
                kept = min(dim, x.shape[1])
                rows[:, :kept] += x[:, :kept]
            out[first : first + _BLOCK] = rows

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        named: Named = {"steps": self.steps(shape)}
        for spec in self.layout(shape)[1:]:
            fan_in = spec.shape[0] if len(spec.shape) == 2 else 100
            named[spec.name] = random_floats(rng, *map(int, spec.shape)) * np.float32(int(fan_in) ** -0.5)
        return named


def features_of(steps: npt.NDArray[Any], ids: Ids) -> npt.NDArray[np.float32]:
    """Sines, then cosines, (n, 2 * len(steps)); exact integers up to a rounded polynomial in float64."""
    phases = ((2 * ids.astype(np.uint64) + np.uint64(1))[:, None] * steps >> np.uint64(32)).astype(np.uint32)
    return np.concatenate([_sine(phases), _sine(phases + np.uint32(2**30))], axis=1)


def _sine(phases: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """The sine of phases / 2^32 turns."""
    q = phases.view(np.int32).astype(np.int64)
    z = np.where(np.abs(q) > 2**30, np.where(q < 0, -(2**31), 2**31) - q, q) / 2.0**30
    s, p = z * z, np.full(z.shape, SINE[0])
    for c in SINE[1:]:
        p = p * s + c
    return (p * z).astype(np.float32)


def gelu(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """z Phi(z), with Phi by the logistic function: the "tanh" form of GELU (Hendrycks & Gimpel 2016)."""
    e = np.exp(np.clip(1.5957691216057308 * (z + 0.044715 * z**3), -87.0, 20.0))
    found: npt.NDArray[np.float64] = z * (e / (e + 1))
    return found
