// Rows times a matrix, plus a mean: row = sum over k of code[k] * matrix[k], then + weight * mean, in this order, each
// operation rounded, as csrc/skeletons/multiply.h and csrc/transforms/_linear.h have it.
#pragma once
#include "cuda/skeletons/map.cuh"

namespace embstore::cuda {

template <bool Spans>
struct Affine {
  static constexpr int kRows = Spans ? 4 : 8;
  static constexpr bool kSpans = Spans;
  int depth, width, align;
  const float *matrix, *mean;  // mean: null for none

  Affine(int64_t in_dim, int64_t out_dim, const float* lines, const float* constant)
      : depth(int(in_dim)), width(int(out_dim)), align(alignment(lines, 4 * out_dim)), matrix(lines), mean(constant) {}

  template <class Task>
  EMBSTORE_HD void sum(const Task& task, int64_t first, int count, const int* spans, int j,
                       float (&sums)[kRows][4]) const {
    int from[kRows], to[kRows], begin = Spans ? depth : 0, end = Spans ? 0 : depth;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      from[r] = Spans && r < count ? spans[2 * r] : 0, to[r] = Spans && r < count ? spans[2 * r + 1] : 0;
      if (Spans && from[r] < to[r]) begin = smaller(begin, from[r]), end = end < to[r] ? to[r] : end;
      // The first sum is the first product: adding it to -0 changes no bit of it.
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[r][c] = Spans && from[r] == to[r] ? 0.0f : -0.0f;
    }
    task.over(first, count, j, begin, end, [&](int k, const float (&value)[kRows], const float (&weight)[4]) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (Spans && (k < from[r] || k >= to[r])) continue;
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[r][c] = sums[r][c] + value[r] * weight[c];
      }
    });
  }
  EMBSTORE_HD void finish(const MapRows& rows, int64_t r, int j, float (&sum)[4]) const {
    if (mean == nullptr) return;
    const float weight = rows.weight(r);
    const Bytes<16> constant = read_bytes<16>(reinterpret_cast<const uint8_t*>(mean + j), 16);
#pragma unroll
    for (int c = 0; c < 4; ++c) sum[c] = sum[c] + weight * bits_float(constant.words[c]);
  }
};

// mean may be null.
std::unique_ptr<Map> affine_map(int64_t in_dim, int64_t out_dim, const float* matrix, const float* mean);
// The same without a mean, for codes that are mostly zero.
std::unique_ptr<Map> sparse_map(int64_t in_dim, int64_t out_dim, const float* matrix);

}  // namespace embstore::cuda
