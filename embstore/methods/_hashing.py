"""The 64-bit hash of every method that hashes ids; csrc/methods/_hashing.h and embstore/nn/_hashing.py are its twins.

`scramble` is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) after adding the seed times its increment.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..method import Ids

GOLDEN = 0x9E3779B97F4A7C15
LOWEST = np.uint64(2**32 - 1)
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def check_seed(method: str, seed: object) -> None:
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigError(f"seed of {method} must be an integer below 2**32, found {seed!r}; 0 suits most")


def scramble(ids: Ids, seed: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id."""
    x = ids.astype(np.uint64) + np.uint64((seed + 1) * GOLDEN % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


def reduce(hashed: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.int64]:
    """Hashes to 0 … n - 1, n <= 2**31, without a division: the top 31 bits times n, shifted back."""
    return ((hashed >> np.uint64(33)) * np.uint64(n) >> np.uint64(31)).astype(np.int64)
