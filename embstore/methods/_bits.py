"""Packing of codes of 1 to 16 bits: a row is one little-endian bit string, low bits first, padded to whole bytes.

Eight codes of b bits always fill b bytes, so that kernels widen eight codes at a time whatever b is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
_GROUP = 8


def packed_bytes(dim: int, bits: int) -> int:
    return -(-dim * bits // 8)


def pack(codes: npt.NDArray[Any], bits: int) -> U8:
    """(n, dim) unsigned codes below 2**bits to (n, packed_bytes) bytes."""
    if bits > 8:
        return _pack_wide(codes, bits)
    n, dim = codes.shape
    groups = -(-dim // _GROUP)
    padded = np.zeros((n, groups * _GROUP), np.uint8)
    padded[:, :dim] = codes
    words = np.zeros((n, groups), "<u8")
    for k in range(_GROUP):
        words |= padded[:, k::_GROUP].astype(np.uint64) << np.uint64(k * bits)
    packed = words.view(np.uint8).reshape(n, groups, 8)[:, :, :bits].reshape(n, groups * bits)
    return np.ascontiguousarray(packed[:, : packed_bytes(dim, bits)])


def unpack(packed: npt.NDArray[np.generic], bits: int, dim: int) -> npt.NDArray[Any]:
    """The inverse of `pack`: uint8 codes, uint16 ones of more than 8 bits."""
    if bits > 8:
        return _unpack_wide(packed, bits, dim)
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


def _pack_wide(codes: npt.NDArray[Any], bits: int) -> U8:
    n, dim = codes.shape
    places = np.arange(bits, dtype=np.uint16)
    single = ((codes.astype(np.uint16)[:, :, None] >> places) & 1).astype(np.uint8)
    return np.packbits(single.reshape(n, dim * bits), axis=1, bitorder="little")


def _unpack_wide(packed: npt.NDArray[Any], bits: int, dim: int) -> npt.NDArray[Any]:
    single = np.unpackbits(packed.astype(np.uint8), axis=1, count=dim * bits, bitorder="little")
    out = np.zeros((len(packed), dim), np.uint16)
    for place, column in enumerate(np.moveaxis(single.reshape(len(packed), dim, bits), 2, 0)):
        out |= column.astype(np.uint16) << np.uint16(place)
    return out
