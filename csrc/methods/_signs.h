// The signs of ids that share a row (embstore/methods/_signs.py): value j is negated where pattern AND j has an odd
// number of bits.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

struct Signs {
  uint64_t pattern;

  // Bit j is the sign of column first + j; `first` is a multiple of 64.
  EMBSTORE_INLINE uint64_t word(uint64_t first) const {
    constexpr uint64_t kColumns[6] = {0xAAAAAAAAAAAAAAAA, 0xCCCCCCCCCCCCCCCC, 0xF0F0F0F0F0F0F0F0,
                                      0xFF00FF00FF00FF00, 0xFFFF0000FFFF0000, 0xFFFFFFFF00000000};
    uint64_t found = -uint64_t(__builtin_parityll(pattern & first));
    for (int b = 0; b < 6; ++b) found ^= kColumns[b] & -(pattern >> b & 1);
    return found;
  }
  float one(float v, int64_t j) const { return __builtin_parityll(pattern & uint64_t(j)) ? -v : v; }
#if !defined(EMBSTORE_ISA_REF)
  // Of Width values from column j on.
  EMBSTORE_INLINE Floats many(Floats v, int64_t j) const {
    const int64_t shift = j & 63;
    uint64_t bits = word(uint64_t(j - shift)) >> shift;
    if (shift + Width > 64) bits |= word(uint64_t(j - shift + 64)) << (64 - shift);
    using Lanes = uint32_t __attribute__((vector_size(4 * Width)));
    Lanes lane;
    for (int k = 0; k < Width; ++k) lane[k] = uint32_t(k);
    return (Floats)((Lanes)v ^ ((uint32_t(bits) >> lane) << 31));
  }
#endif
};

}  // namespace embstore::EMBSTORE_ISA
