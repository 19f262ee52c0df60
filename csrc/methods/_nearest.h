// The nearest of a set of vectors, the first of equals, by sums of squares in the order of columns, each operation
// rounded. Rows are lanes, so that nothing needs adding up across them.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

// Lanes of one register: of wider vectors than that GCC compares and selects lane by lane.
inline constexpr int kRowLanes = Width > 1 ? Width : 4;
typedef float RowLanes __attribute__((vector_size(4 * kRowLanes)));
typedef int32_t RowPlaces __attribute__((vector_size(4 * kRowLanes)));

inline constexpr int kRowVectors = 2;  // one's additions hide the latency of the other's
inline constexpr int64_t kNearestRows = kRowVectors * kRowLanes;

// rows: values x kNearestRows; vectors: count x values; found: kNearestRows. A row with a NaN gets 0. VALUES 0:
// `values` counts.
template <int VALUES>
inline void nearest(const float* rows, const float* vectors, int64_t count, int64_t values, uint16_t* found) {
  const int64_t n = VALUES > 0 ? VALUES : values;
  auto column = [&](int64_t j, int v) {
    RowLanes lanes;
    std::memcpy(&lanes, rows + j * kNearestRows + v * kRowLanes, sizeof lanes);
    return lanes;
  };
  RowLanes best[kRowVectors];
  RowPlaces at[kRowVectors] = {};
  for (auto& each : best) each = RowLanes{} + std::numeric_limits<float>::infinity();
  for (int64_t c = 0; c < count; ++c, vectors += n) {
    RowLanes sums[kRowVectors];
    for (int v = 0; v < kRowVectors; ++v) {
      const RowLanes away = column(0, v) - vectors[0];
      sums[v] = away * away;
    }
#pragma GCC unroll 8
    for (int64_t j = 1; j < n; ++j)
      for (int v = 0; v < kRowVectors; ++v) {
        const RowLanes away = column(j, v) - vectors[j];
        sums[v] += away * away;
      }
    for (int v = 0; v < kRowVectors; ++v) {
      const RowPlaces nearer = sums[v] < best[v];
      best[v] = nearer ? sums[v] : best[v];
      at[v] = nearer ? RowPlaces{} + int32_t(c) : at[v];
    }
  }
  for (int v = 0; v < kRowVectors; ++v)
    for (int l = 0; l < kRowLanes; ++l) found[v * kRowLanes + l] = uint16_t(at[v][l]);
}

}  // namespace embstore::EMBSTORE_ISA
