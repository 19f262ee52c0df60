"""Signs that tell apart ids which share a row; csrc/methods/_signs.h and embstore/nn/_signs.py are its twins.

The hashing trick multiplies what is shared by a hashed sign, so that collisions cancel out on average. Here the sign of
value j is (-1) to the number of bits of (pattern & j), where the ids that share a row have patterns 0, 1, 2, …: rows of
a Hadamard matrix, so two of them differ in exactly half of the values where their number is a power of two, and ids of
one pattern have all values' signs in common. Random signs for each id hold less: a model learns to read one of a few
patterns, and not one of its own for each id.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ._table_rows import CodedTables

F32 = npt.NDArray[np.float32]


@functools.lru_cache(maxsize=16)
def hadamard(dim: int) -> F32:
    """The signs (patterns, dim) of all patterns that differ: as many as the power of two from dim on."""
    columns = np.arange(1 << max(0, dim - 1).bit_length(), dtype=np.int64)
    bits = columns[:, None] & columns[None, :dim]
    for shift in (32, 16, 8, 4, 2, 1):
        bits ^= bits >> shift
    found = (1 - 2 * (bits & 1)).astype(np.float32)
    found.flags.writeable = False
    return found


def signs(patterns: npt.NDArray[np.int64], dim: int) -> F32:
    """The signs (n, dim) of patterns (n,)."""
    table = hadamard(dim)
    found: F32 = table[patterns & (len(table) - 1)]
    return found


@dataclasses.dataclass(frozen=True)
class SignedTables(CodedTables):
    """Base of the methods whose ids share rows and may have signs of their own in them.

    Parameters
    ----------
    sign : whether ids that share a row have it with other signs. Modules of `embstore.nn` have them unless told not to.
    """

    later: ClassVar[tuple[str, ...]] = (*CodedTables.later, "sign")

    sign: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.sign, bool):
            raise ConfigError(f"sign of {self.id} must be true or false, found {self.sign!r}; choose one")
        super().__post_init__()
