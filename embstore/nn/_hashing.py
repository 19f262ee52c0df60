"""The 64-bit hash of embstore/methods/_hashing.py, on int64 tensors whose arithmetic wraps."""

from __future__ import annotations

from torch import Tensor

from ..methods._hashing import FIRST, GOLDEN, SECOND

LOWEST = 2**32 - 1


def _signed(value: int) -> int:
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits, filling with zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def scramble(ids: Tensor, seed: int) -> Tensor:
    """A 64-bit hash of each id, as the int64 of the same bits."""
    x = ids + _signed((seed + 1) * GOLDEN)
    x = (x ^ _shifted(x, 30)) * _signed(FIRST)
    x = (x ^ _shifted(x, 27)) * _signed(SECOND)
    return x ^ _shifted(x, 31)


def reduce(hashed: Tensor, n: int) -> Tensor:
    """Hashes to 0 … n - 1, n <= 2**31."""
    return (_shifted(hashed, 33) * n) >> 31
