// The 64-bit hash of embstore/methods/_hashing.py.
#pragma once
#include <cstdint>

#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

inline uint64_t scramble(int64_t id, int64_t seed) {
  uint64_t x = uint64_t(id) + (uint64_t(seed) + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline int64_t reduce(uint64_t hashed, int64_t n) { return int64_t(((hashed >> 33) * uint64_t(n)) >> 31); }

}  // namespace embstore::EMBSTORE_ISA
