"""Packed codes against the sentence of docs/format.md: code j is bits j * b to j * b + b - 1 of the row."""

import numpy as np
import pytest

from embstore.methods._bits import pack, packed_bytes, unpack


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 64, 129])
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_row_is_one_little_endian_number(bits, dim):
    codes = np.random.default_rng(bits * dim).integers(0, 2**bits, (5, dim)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (5, packed_bytes(dim, bits)) and packed.dtype == np.uint8
    for row, given in zip(packed, codes, strict=True):
        number = int.from_bytes(row.tobytes(), "little")
        assert number == sum(int(c) << (j * bits) for j, c in enumerate(given))
    assert np.array_equal(unpack(packed, bits, dim), codes)
    assert pack(codes[:0], bits).shape == (0, packed_bytes(dim, bits))
