"""Packing of 4- and 2-bit codes: low bits first, each row padded to whole bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


def packed_bytes(dim: int, bits: int) -> int:
    return -(-dim * bits // 8)


def pack(codes: U8, bits: int) -> U8:
    """(n, dim) codes below 2**bits to (n, packed_bytes) bytes."""
    per = 8 // bits
    n, dim = codes.shape
    padded = np.zeros((n, packed_bytes(dim, bits) * per), np.uint8)
    padded[:, :dim] = codes
    out = np.zeros((n, padded.shape[1] // per), np.uint8)
    for k in range(per):
        out |= padded[:, k::per] << np.uint8(k * bits)
    return out


def unpack(packed: npt.NDArray[np.generic], bits: int, dim: int) -> U8:
    """The inverse of `pack`."""
    per = 8 // bits
    out = np.empty((len(packed), packed.shape[1] * per), np.uint8)
    for k in range(per):
        out[:, k::per] = (packed.astype(np.uint8) >> np.uint8(k * bits)) & np.uint8(2**bits - 1)
    return out[:, :dim]
