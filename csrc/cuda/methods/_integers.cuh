// Integers that say where rows lie: digits of ids, and the 64-bit hash of embstore/methods/_hashing.py.
#pragma once
#include "cuda/core/number.cuh"

namespace embstore::cuda {

// Of numbers that are not negative. A device takes four times as long to divide 64 bits as 32.
EMBSTORE_HD int64_t quotient(int64_t a, int64_t by) {
  return ((uint64_t(a) | uint64_t(by)) >> 32) == 0 ? int64_t(uint32_t(a) / uint32_t(by)) : a / by;
}
EMBSTORE_HD int64_t modulo(int64_t a, int64_t by) { return a - quotient(a, by) * by; }

EMBSTORE_HD uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
EMBSTORE_HD uint64_t scramble(int64_t id, int64_t seed) {
  return mix64(uint64_t(id) + (uint64_t(seed) + 1) * 0x9E3779B97F4A7C15u);
}
EMBSTORE_HD int64_t reduce(uint64_t hashed, int64_t n) { return int64_t(((hashed >> 33) * uint64_t(n)) >> 31); }

}  // namespace embstore::cuda
