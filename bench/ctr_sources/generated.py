"""Clicks of any size without a download: power-law ids, and labels of planted interactions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from embstore.errors import ConfigError

from .coding import CHUNK, Keys
from .source import Chunk, Source

HIDDEN = 4
_STEP, _A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def generated(rows: int, fields: int, features: int, skew: float, seed: int, name: str | None = None) -> Source:
    """`rows` samples of `fields` fields that have `features` ids together.

    The id of rank r occurs with probability falling as r^-skew, ranks are dealt over the ids. The logit is a sum of
    biases of all ids and of the dot products of hidden vectors of all pairs of ids. Hidden vectors are hashes of their
    id, so that nothing grows with `features`, and chunks are drawn by their number, so that they can be made anywhere.
    """
    for value, what, least in ((rows, "rows", 10), (fields, "fields", 1), (features, "features", 2 * fields)):
        if value < least:
            raise ConfigError(f"{what} of generated data must be at least {least}, found {value}; give more")
    sizes = _sizes(fields, features)

    def chunks() -> Iterator[Chunk]:
        for number, start in enumerate(range(0, rows, CHUNK // 16)):
            rng = np.random.default_rng((seed, number))
            n = min(CHUNK // 16, rows - start)
            ids = np.stack([_power_law(rng, size, n, skew) for size in sizes], axis=1)
            labels = rng.random(n) < 1 / (1 + np.exp(-_logits(ids, seed)))
            yield ids, labels.astype(np.uint8), np.zeros(n, np.int32)

    about = {"rows": rows, "features": features, "skew": skew, "generator": 1}
    fitting = name or f"generated-{rows}-{fields}-{features}-{skew:g}"
    return Source(fitting, tuple(str(f) for f in range(fields)), chunks, "random", about, sizes)


def _sizes(fields: int, features: int) -> tuple[int, ...]:
    """Sizes falling geometrically over four decades, as those of click logs do; they add up to `features`."""
    weights = 10 ** -np.linspace(0, 4, fields)
    sizes = np.maximum(2, np.floor(features * weights / weights.sum())).astype(int)
    sizes[0] += features - sizes.sum()
    return tuple(int(n) for n in sizes)


def _power_law(rng: np.random.Generator, size: int, n: int, skew: float) -> Keys:
    """Ids by the inverse of the continuous distribution; ranks are dealt by a multiplication modulo `size`."""
    u = rng.random(n)
    if abs(skew - 1) < 1e-9:
        ranks = (size + 1.0) ** u
    else:
        ranks = (1 + u * ((size + 1.0) ** (1 - skew) - 1)) ** (1 / (1 - skew))
    rank = np.clip(ranks.astype(np.int64) - 1, 0, size - 1)
    step = next(p for p in range(int(0.618 * size) + 1, 2 * size + 2) if np.gcd(p, size) == 1)
    ids: Keys = (rank * step % size).astype(np.uint64)
    return ids


def _logits(ids: Keys, seed: int) -> npt.NDArray[np.float64]:
    """The sum of the biases, of variance 1, and that of the dot products of all pairs, of variance 1 too; less 1."""
    n, fields = ids.shape
    total, squares, biases = np.zeros((n, HIDDEN)), np.zeros(n), np.zeros(n)
    for f in range(fields):
        hidden = np.stack([_normal(ids[:, f], (seed, f, k)) for k in range(HIDDEN)], axis=1)
        total += hidden
        biases += _normal(ids[:, f], (seed, f, HIDDEN))
        squares += np.square(hidden).sum(axis=1)
    pairs = max(fields * (fields - 1) / 2, 1)
    dots = (np.square(total).sum(axis=1) - squares) / 2
    logits: npt.NDArray[np.float64] = biases / np.sqrt(fields) + dots / np.sqrt(HIDDEN * pairs) - 1
    return logits


def _normal(ids: Keys, stream: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """Standard normal numbers that depend on the id and the stream alone (Box and Muller of SplitMix64)."""
    with np.errstate(over="ignore"):
        seed, field, place = (np.uint64(part) for part in stream)
        z = (ids + (seed << np.uint64(48)) + (field << np.uint64(40)) + (place << np.uint64(36)) + np.uint64(1)) * _STEP
        z = (z ^ (z >> np.uint64(30))) * _A
        z = (z ^ (z >> np.uint64(27))) * _B
        z ^= z >> np.uint64(31)
    a = ((z >> np.uint64(32)).astype(np.float64) + 1) / 2**32
    b = (z & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    drawn: npt.NDArray[np.float64] = np.sqrt(-2 * np.log(a)) * np.cos(2 * np.pi * b)
    return drawn
