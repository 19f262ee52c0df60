"""Packing of codes of 1 to 16 bits: low bits first, each row padded to whole bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


def packed_bytes(dim: int, bits: int) -> int:
    return -(-dim * bits // 8)


def pack(codes: npt.NDArray[Any], bits: int) -> U8:
    """(n, dim) unsigned codes below 2**bits to (n, packed_bytes) bytes."""
    if 8 % bits:
        return _pack_bits(codes, bits)
    per = 8 // bits
    n, dim = codes.shape
    padded = np.zeros((n, packed_bytes(dim, bits) * per), np.uint8)
    padded[:, :dim] = codes
    out = np.zeros((n, padded.shape[1] // per), np.uint8)
    for k in range(per):
        out |= padded[:, k::per] << np.uint8(k * bits)
    return out


def unpack(packed: npt.NDArray[np.generic], bits: int, dim: int) -> npt.NDArray[Any]:
    """The inverse of `pack`: uint8 codes, uint16 ones of more than 8 bits."""
    if 8 % bits:
        return _unpack_bits(packed, bits, dim)
    per = 8 // bits
    out = np.empty((len(packed), packed.shape[1] * per), np.uint8)
    for k in range(per):
        out[:, k::per] = (packed.astype(np.uint8) >> np.uint8(k * bits)) & np.uint8(2**bits - 1)
    return out[:, :dim]


def _pack_bits(codes: npt.NDArray[Any], bits: int) -> U8:
    n, dim = codes.shape
    places = np.arange(bits, dtype=np.uint16)
    single = ((codes.astype(np.uint16)[:, :, None] >> places) & 1).astype(np.uint8)
    return np.packbits(single.reshape(n, dim * bits), axis=1, bitorder="little")


def _unpack_bits(packed: npt.NDArray[Any], bits: int, dim: int) -> npt.NDArray[Any]:
    single = np.unpackbits(packed.astype(np.uint8), axis=1, count=dim * bits, bitorder="little")
    out = np.zeros((len(packed), dim), np.uint16)
    for place, column in enumerate(np.moveaxis(single.reshape(len(packed), dim, bits), 2, 0)):
        out |= column.astype(np.uint16) << np.uint16(place)
    return out.astype(np.uint8) if bits <= 8 else out
