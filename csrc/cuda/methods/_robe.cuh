// Where the values of a row lie in a ROBE pool, and their signs: embstore/methods/robe.py.
#pragma once
#include <stdexcept>

#include "core/table.h"
#include "cuda/core/number.cuh"

namespace embstore::cuda {

inline constexpr uint64_t kPrime = 2038074743;  // 2 * kPrime < 2^32

struct RobePlaces {
  struct Place {
    uint64_t by_id;  // the id's part of the hash of a chunk
    uint32_t base;   // and of that of a sign
  };
  int chunk;
  int64_t size;
  uint32_t starts;
  bool sign;
  uint64_t factors[6] = {};  // B, C, D of the offsets, B', C', D' of the signs

  explicit RobePlaces(const Params& p) : size(p.integer("size", 1)), sign(p.integer("sign", 0) != 0) {
    const int64_t length = p.integer("chunk", 1);
    if (length < 1 || size < length || size > int64_t(kPrime))
      throw std::invalid_argument("the pool must hold a chunk, and at most 2038074743 values");
    chunk = int(length);
    starts = uint32_t(p.integer("wrap", 0) != 0 ? size : size - length + 1);
  }

  EMBSTORE_HD Place place(int64_t id) const {
    const uint64_t x = uint64_t(id) % kPrime;
    return {x * factors[0], sign ? uint32_t((x * factors[3] + factors[5]) % kPrime) : 0};
  }
  // The first place of chunk c.
  EMBSTORE_HD int64_t start(const Place& at, int c) const {
    return int64_t(uint32_t((at.by_id + uint64_t(c) * factors[1] + factors[2]) % kPrime) % starts);
  }
  // A place that a run from `start` comes to, which may wrap around.
  EMBSTORE_HD int64_t wrapped(int64_t from) const { return from >= size ? from - size : from; }
  EMBSTORE_HD bool negative(const Place& at, int j) const {
    if (!sign) return false;
    const uint32_t sum = at.base + uint32_t(uint64_t(j) * factors[4] % kPrime);
    return ((sum < kPrime ? sum : sum - uint32_t(kPrime)) & 1) == 0;
  }
};

}  // namespace embstore::cuda
