"""Trellis-coded quantization (Marcellin, Fischer, 1990) with a sliding window of bits for its states (QTIP, 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from .. import encoding
from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..kmeans import finite_rows
from ..method import FloatRows, Ids, Named, RowMethod, Rows, nbytes

F32 = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]
Shared = Mapping[str, npt.NDArray[Any]]

_WINDOWS = range(6, 13)
_BLOCK_VALUES = 1 << 22
_VARIANCE_ROWS = 1 << 17
# A level is learned from about this many values, in so many rounds of encoding: one in a hundred less error for twice.
_VALUES_PER_LEVEL, _ROUNDS = 40, 6


@dataclass(frozen=True)
class TCQ(RowMethod):
    """Each value is a level named by a window of the row's bits that overlaps the windows of the values before it.

    Values of more variance get more bits, so put `pca` in front: "pca,tcq25". A value adds a few bits to the row, but
    its level depends on the last `window` bits: the encoder searches the sequence of least error (Viterbi), which
    comes close to what codes of whole rows could reach, with one small table of levels.

    Parameters
    ----------
    row_bytes : bytes of a row; None for 4 bits a value.
    window : bits that name a level, at most 12; None for what costs at most 2 % of the table. One more doubles the
        time of encoding and lowers the error by some percent.

    A row that holds a NaN or an infinity gets codes 0. Deviations and means come from at most 131,072 rows.
    """

    id: ClassVar[str] = "tcq"
    shorthand: ClassVar[tuple[str, ...]] = ("row_bytes",)

    row_bytes: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.row_bytes is not None and (type(self.row_bytes) is not int or self.row_bytes < 1):
            raise ConfigError(f"row_bytes of tcq must be a positive integer, found {self.row_bytes!r}; leave it out")
        if self.window is not None and (type(self.window) is not int or self.window not in _WINDOWS):
            raise ConfigError(
                f"window of tcq must be between {_WINDOWS[0]} and {_WINDOWS[-1]}, found {self.window!r}; leave it out"
            )

    def resolve(self, shape: TableShape) -> Self:
        n, dim = shape.num_embeddings, shape.embedding_dim
        row_bytes = self.row_bytes or -(-dim // 2)
        if row_bytes > -(-dim * _WINDOWS[-1] // 8):
            raise ConfigError(
                f"row_bytes of tcq must be at most {-(-dim * _WINDOWS[-1] // 8)} for {dim} values, found {row_bytes}; "
                "take int16 for more"
            )
        window = self.window
        if window is None:
            cheap = [w for w in _WINDOWS if 100 * 2 << w <= 2 * n * row_bytes]
            enough = min(w for w in _WINDOWS if dim * w >= 8 * row_bytes - 7)
            window = max([*cheap, enough])
        return dataclasses.replace(self, row_bytes=row_bytes, window=window)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        dim = shape.embedding_dim
        return (
            ArraySpec("codes", "uint8", (shape.num_embeddings, self.row_bytes or 0), "rows"),
            ArraySpec("bits", "uint8", (dim,), "shared"),
            ArraySpec("affine", "float32", (dim, 2), "shared"),
            ArraySpec("levels", "float16", (1 << (self.window or 0),), "shared"),
        )

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """The most bytes a row that fit; `BudgetError` names the floor."""
        most = -(-shape.embedding_dim * _WINDOWS[-1] // 8)
        options = [
            option
            for row_bytes in range(1, most + 1)
            for window in ([self.window] if self.window else _WINDOWS)
            if shape.embedding_dim * window >= 8 * row_bytes - 7
            for option in [dataclasses.replace(self, row_bytes=row_bytes, window=window)]
        ]
        fitting = [o for o in options if nbytes(o, shape) <= nbytes_]
        if not fitting:
            raise BudgetError(
                f"tcq needs at least {min(nbytes(o, shape) for o in options):,} bytes for {shape}, found a budget of "
                f"{nbytes_:,}; raise it or take fewer values by pca first",
                floor=min(nbytes(o, shape) for o in options),
            )
        return max(fitting, key=lambda o: (o.row_bytes, o.window))

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        window = self.window or 0
        sample = finite_rows(source.sample(_VARIANCE_ROWS, rng))
        dim = source.shape.embedding_dim
        mean = sample.mean(axis=0, dtype=np.float64) if len(sample) else np.zeros(dim)
        variance = np.square(sample - mean).mean(axis=0) if len(sample) else np.zeros(dim)
        bits = allocate(variance, 8 * (self.row_bytes or 0), window)
        affine = np.stack([np.where(bits > 0, np.sqrt(variance), 0.0), mean], axis=1).astype(np.float32)
        coded = affine[:, 0] > 0
        values = ((sample - affine[:, 1])[:, coded] / affine[coded, 0]).ravel()
        rate = float(bits[coded].mean()) if coded.any() else 0.0
        shared: Named = {"bits": bits, "affine": affine}
        shared["levels"] = first_levels(window, values, rate, rng).astype(np.float16)
        rows = (_VALUES_PER_LEVEL << window) // max(1, int(coded.sum()))
        if len(sample) > rows:
            sample = sample[np.sort(rng.choice(len(sample), rows, replace=False))]
        for _ in range(_ROUNDS if coded.any() else 0):
            codes = encoding.encode(self, shared, np.arange(len(sample)), sample)["codes"]
            stream = np.unpackbits(codes, axis=1, bitorder="little")
            shared["levels"] = _learn_levels(sample, shared, stream)
        return shared

    def encode(self, shared: Shared, ids: Ids, rows: FloatRows) -> Named:
        with np.errstate(all="ignore"):
            stream = self.search(shared, rows)
        stream[~np.isfinite(rows).all(axis=1)] = 0
        packed = np.packbits(stream, axis=1, bitorder="little")
        codes = np.zeros((len(rows), self.row_bytes or 0), np.uint8)
        codes[:, : packed.shape[1]] = packed
        return {"codes": codes}

    def search(self, shared: Shared, rows: FloatRows) -> Bits:
        """The bits (n, sum of bits) of least squared error, first of equals, each operation rounded to float32."""
        step = max(1, _BLOCK_VALUES >> (self.window or 0))
        parts = [_viterbi(rows[at : at + step], shared) for at in range(0, len(rows), step)]
        return np.concatenate(parts) if parts else np.zeros((0, int(shared["bits"].sum())), np.uint8)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        codes = np.asarray(arrays["codes"][ids - arrays.start], np.uint8)
        affine = np.asarray(arrays["affine"], np.float32)
        used = windows(
            np.unpackbits(codes, axis=1, bitorder="little"), np.asarray(arrays["bits"], np.uint8), self.window or 0
        )
        out[:] = arrays["levels"].astype(np.float32)[used]
        out *= affine[:, 0]
        out += affine[:, 1]

    def constants(self, shared: Shared) -> Named:
        """The levels as kernels read them; where the window of each value ends, which a GPU cannot add up by column."""
        ends = np.cumsum(shared["bits"], dtype=np.uint32)
        return {"table": shared["levels"].astype(np.float32), "ends": ends}


def allocate(variance: npt.NDArray[np.float64], total: int, most: int) -> Bits:
    """Bits of each value, at most `most`, `total` in all: one at a time to the largest error, which it quarters."""
    left = variance.astype(np.float64)
    bits = np.zeros(len(left), np.uint8)
    for _ in range(min(total, most * len(left))):
        at = int(np.argmax(np.where(bits < most, left, -1.0)))
        bits[at] += 1
        left[at] /= 4.0
    return bits


def first_levels(window: int, values: F32, rate: float, rng: np.random.Generator) -> F32:
    """2**window levels for values coded by `rate` bits each, such that any history leaves codes that divide the range.

    Of few bits, levels are best as dense as the values; of many, as the cube root of their density (Panter and Dite,
    1951). Bit i of a level's rank is bit i of the state, flipped at random by the bits below it (Owen's scrambling).
    """
    states = np.arange(1 << window)
    rank = np.zeros_like(states)
    for i in range(window):
        flips = rng.integers(0, 2, 1 << i)
        rank |= (((states >> i) & 1) ^ flips[states & ((1 << i) - 1)]) << i
    density, edges = np.histogram(values, 256)
    smooth = np.convolve(density, np.ones(5) / 5, "same") + 1e-3
    share = np.cumsum(smooth ** (1.0 - 2.0 / 3.0 * min(1.0, rate / 5.0)))
    at = (np.arange(len(states)) + 0.5) / len(states)
    levels = np.interp(at, np.concatenate([[0.0], share / share[-1]]), edges)
    ranked: F32 = levels.astype(np.float32)[rank]
    return ranked


def windows(stream: Bits, bits: Bits, window: int) -> npt.NDArray[np.int64]:
    """The window (n, dim) of each value, its last bit highest; bits before the row's first are 0."""
    padded = np.pad(stream, ((0, 0), (window, 0))).astype(np.int64)
    ends = np.cumsum(bits.astype(np.int64))
    found = np.zeros((len(stream), len(bits)), np.int64)
    for place in range(window):
        found |= padded[:, ends + place] << place
    return found


def _learn_levels(rows: F32, shared: Shared, stream: Bits) -> npt.NDArray[np.float16]:
    """Levels of least squared error for rows of given bits; a level that none uses stays."""
    levels, (scale, offset) = shared["levels"].astype(np.float64), shared["affine"].astype(np.float64).T
    used = windows(stream, shared["bits"], len(levels).bit_length() - 1)
    weight = np.broadcast_to(np.square(scale), used.shape).ravel()
    moments = np.bincount(used.ravel(), ((rows - offset) * scale).ravel(), len(levels))
    weights = np.bincount(used.ravel(), weight, len(levels))
    found = np.where(weights > 0, moments / np.where(weights > 0, weights, 1.0), levels)
    return np.clip(found, -65504.0, 65504.0).astype(np.float16)


def _viterbi(x: F32, shared: Shared) -> Bits:
    bits, levels = shared["bits"], shared["levels"].astype(np.float32)
    window = len(levels).bit_length() - 1
    cost = np.full((len(x), len(levels)), np.inf, np.float32)
    cost[:, 0] = 0.0
    came_from: list[npt.NDArray[Any]] = []
    for j, k in enumerate(map(int, bits)):
        if k == 0:
            continue
        before = cost.reshape(len(x), len(levels) >> k, 1 << k)
        came_from.append(before.argmin(axis=2).astype(np.uint16))
        scale, offset = shared["affine"][j]
        away = x[:, j, None] - (levels * scale + offset)
        cost = np.tile(before.min(axis=2), (1, 1 << k)) + away * away
    # Not finite only where the row is not, or its squares overflow: any path is as good.
    cost[np.isnan(cost)] = np.inf
    state = cost.argmin(axis=1)
    end = int(bits.sum())
    stream = np.zeros((len(x), end), np.uint8)
    for k in (int(b) for b in bits[::-1] if b):
        code, rest = state >> (window - k), state & ((1 << (window - k)) - 1)
        for i in range(k):
            stream[:, end - k + i] = (code >> i) & 1
        end -= k
        state = (rest << k) | came_from.pop()[np.arange(len(x)), rest]
    return stream
