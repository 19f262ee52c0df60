// The nearest of a set of vectors, the first of equals, by sums of squares in the order of columns, each operation
// rounded.
#pragma once
#include <limits>

#include "methods/_lanes.h"

namespace embstore::EMBSTORE_ISA {

// columns: dim x stride, one vector a lane; stride is a multiple of kLanes, padded with infinities. DIM 0: `dim`
// counts.
template <int DIM>
inline uint32_t nearest(const float* x, const float* columns, int64_t stride, int64_t dim) {
  Lanes best = Lanes{} + std::numeric_limits<float>::infinity();
  LanePlaces at = {};
  const int64_t count = DIM > 0 ? DIM : dim;
  for (int64_t c = 0; c < stride; c += kLanes) {
    Lanes away = x[0] - lanes_at(columns + c);
    Lanes sum = away * away;
#pragma GCC unroll 8
    for (int64_t j = 1; j < count; ++j) {
      away = x[j] - lanes_at(columns + j * stride + c);
      sum += away * away;
    }
    const LanePlaces nearer = sum < best;
    best = nearer ? sum : best;
    at = nearer ? LanePlaces{} + int32_t(c) : at;
  }
  int32_t found = 0;
  float least = std::numeric_limits<float>::infinity();
  for (int l = 0; l < kLanes; ++l) {
    const int32_t which = at[l] + l;
    // Among lanes the first is not the leftmost: each has seen every 16th vector.
    if (best[l] < least || (best[l] == least && which < found)) least = best[l], found = which;
  }
  return uint32_t(found);
}

}  // namespace embstore::EMBSTORE_ISA
