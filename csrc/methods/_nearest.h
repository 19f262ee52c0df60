// The nearest of a set of vectors, the first of equals, by sums of squares in the order of columns. Plain loops over 16
// lanes: every compiler makes vectors of them, and every instruction set the same bits.
#pragma once
#include <cstdint>
#include <limits>

namespace embstore::EMBSTORE_ISA {

inline constexpr int kLanes = 16;

// columns: dim x stride, one vector a lane; stride is a multiple of kLanes, padded with infinities. DIM 0: `dim` counts.
template <int DIM>
inline uint32_t nearest(const float* x, const float* columns, int64_t stride, int64_t dim) {
  float best[kLanes];
  uint32_t at[kLanes];
  for (int l = 0; l < kLanes; ++l) best[l] = std::numeric_limits<float>::infinity(), at[l] = 0;
  const int64_t count = DIM > 0 ? DIM : dim;
  for (int64_t c = 0; c < stride; c += kLanes) {
    float sum[kLanes] = {};
    for (int64_t j = 0; j < count; ++j) {
      const float* column = columns + j * stride + c;
      for (int l = 0; l < kLanes; ++l) {
        const float away = x[j] - column[l];
        sum[l] += away * away;
      }
    }
    for (int l = 0; l < kLanes; ++l) {
      const bool nearer = sum[l] < best[l];
      best[l] = nearer ? sum[l] : best[l];
      at[l] = nearer ? uint32_t(c) : at[l];
    }
  }
  uint32_t found = 0;
  float least = std::numeric_limits<float>::infinity();
  for (int l = 0; l < kLanes; ++l) {
    const uint32_t which = at[l] + uint32_t(l);
    if (best[l] < least || (best[l] == least && least < std::numeric_limits<float>::infinity() && which < found))
      least = best[l], found = which;
  }
  return found;
}

}  // namespace embstore::EMBSTORE_ISA
