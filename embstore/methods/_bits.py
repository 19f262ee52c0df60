"""Packing of codes of 1 to 8 bits: a row is one little-endian bit string, low bits first, padded to whole bytes.

Eight codes of b bits always fill b bytes, so that kernels widen eight codes at a time whatever b is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
_GROUP = 8


def packed_bytes(dim: int, bits: int) -> int:
    return -(-dim * bits // 8)


def pack(codes: U8, bits: int) -> U8:
    """(n, dim) codes below 2**bits to (n, packed_bytes) bytes."""
    n, dim = codes.shape
    groups = -(-dim // _GROUP)
    padded = np.zeros((n, groups * _GROUP), np.uint8)
    padded[:, :dim] = codes
    words = np.zeros((n, groups), "<u8")
    for k in range(_GROUP):
        words |= padded[:, k::_GROUP].astype(np.uint64) << np.uint64(k * bits)
    packed = words.view(np.uint8).reshape(n, groups, 8)[:, :, :bits].reshape(n, groups * bits)
    return np.ascontiguousarray(packed[:, : packed_bytes(dim, bits)])


def unpack(packed: npt.NDArray[np.generic], bits: int, dim: int) -> U8:
    """The inverse of `pack`."""
    n = len(packed)
    groups = -(-dim // _GROUP)
    padded = np.zeros((n, groups * bits), np.uint8)
    padded[:, : packed.shape[1]] = packed
    wide = np.zeros((n, groups, 8), np.uint8)
    wide[:, :, :bits] = padded.reshape(n, groups, bits)
    words = wide.view("<u8")[:, :, 0]
    codes = np.empty((n, groups * _GROUP), np.uint8)
    for k in range(_GROUP):
        codes[:, k::_GROUP] = (words >> np.uint64(k * bits)) & np.uint64(2**bits - 1)
    return codes[:, :dim]
