// Packed codes of 1 to 16 bits, low bits first, as embstore/methods/_bits.py has them.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/table.h"

namespace embstore::EMBSTORE_ISA {

struct ByteCodes {
  explicit ByteCodes(int, int64_t) {}
  uint32_t at(const uint8_t* row, int64_t s) const { return row[s]; }
};

struct NibbleCodes {
  explicit NibbleCodes(int, int64_t) {}
  uint32_t at(const uint8_t* row, int64_t s) const { return (row[s >> 1] >> ((s & 1) * 4)) & 15; }
};

struct PackedCodes {
  int bits;
  int64_t row_bytes;
  PackedCodes(int b, int64_t bytes) : bits(b), row_bytes(bytes) {}
  uint32_t at(const uint8_t* row, int64_t s) const {
    const int64_t bit = s * bits, byte = bit >> 3;
    uint32_t word = 0;
    if (byte + 4 <= row_bytes) {
      std::memcpy(&word, row + byte, 4);
    } else {
      for (int64_t k = byte; k < row_bytes; ++k) word |= uint32_t(row[k]) << (8 * (k - byte));
    }
    return (word >> (bit & 7)) & ((1u << bits) - 1);
  }
};

// Writes the codes of one row, and zero bits after the last.
inline void put_codes(uint8_t* row, const uint16_t* codes, int64_t m, int bits) {
  if (bits == 8) {
    for (int64_t s = 0; s < m; ++s) row[s] = uint8_t(codes[s]);
    return;
  }
  uint32_t word = 0;
  int fill = 0;
  for (int64_t s = 0; s < m; ++s) {
    word |= uint32_t(codes[s]) << fill;
    for (fill += bits; fill >= 8; fill -= 8, word >>= 8) *row++ = uint8_t(word);
  }
  if (fill > 0) *row = uint8_t(word);
}

}  // namespace embstore::EMBSTORE_ISA
