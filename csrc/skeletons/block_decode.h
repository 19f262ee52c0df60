// The loops shared by every method that computes rows in blocks, as matrix products. A functor F has
//   int64_t dim, block;                                            values per row; most rows of a block
//   void rows(const int64_t* ids, int64_t n, float* out) const;    n <= block; a row does not depend on its neighbours
#pragma once
#include <algorithm>
#include <vector>

#include "core/simd.h"
#include "core/table.h"

namespace embstore::EMBSTORE_ISA {

// Room for `n` floats that a thread keeps: blocks follow each other, and their sizes are known when a table is bound.
template <class Tag>
float* scratch(int64_t n) {
  thread_local std::vector<float> room;
  if (int64_t(room.size()) < n) room.resize(size_t(n));
  return room.data();
}

template <class F>
class BlockKernel final : public Kernel {
 public:
  explicit BlockKernel(F f) : f_(std::move(f)) {}

  void lookup(const int64_t* ids, int64_t n, float* out, bool) const noexcept override {
    for (int64_t i = 0; i < n; i += f_.block) f_.rows(ids + i, std::min(f_.block, n - i), out + i * f_.dim);
  }

  void lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept override {
    over_blocks(ids, n, [&](int64_t i, const float* row) {
      for (int64_t j = 0; j < f_.dim; ++j) out[i * f_.dim + j] = float_to_half(row[j]);
    });
  }

  void bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, const float* weights, BagMode mode,
           float* out) const noexcept override {
    const int64_t dim = f_.dim, start = offsets[first];
    std::fill(out + first * dim, out + last * dim, 0.0f);
    int64_t b = first;
    over_blocks(ids + start, offsets[last] - start, [&](int64_t i, const float* row) {
      while (offsets[b + 1] <= start + i) ++b;
      float* sums = out + b * dim;
      if (weights != nullptr) {
        const float weight = weights[start + i];
        for (int64_t j = 0; j < dim; ++j) sums[j] += row[j] * weight;
      } else if (mode == BagMode::kMax) {
        const bool begins = start + i == offsets[b];
        for (int64_t j = 0; j < dim; ++j) sums[j] = begins ? row[j] : max_nan_one(sums[j], row[j]);
      } else {
        for (int64_t j = 0; j < dim; ++j) sums[j] += row[j];
      }
    });
    if (mode != BagMode::kMean) return;
    for (b = first; b < last; ++b) {
      const int64_t length = offsets[b + 1] - offsets[b];
      for (int64_t j = 0; length > 1 && j < dim; ++j) out[b * dim + j] /= float(length);
    }
  }

 private:
  struct Rows;
  // Calls body(i, row) for each id in order.
  template <class Body>
  void over_blocks(const int64_t* ids, int64_t n, Body body) const {
    float* rows = scratch<Rows>(f_.block * f_.dim);
    for (int64_t i = 0; i < n; i += f_.block) {
      const int64_t count = std::min(f_.block, n - i);
      f_.rows(ids + i, count, rows);
      for (int64_t k = 0; k < count; ++k) body(i + k, rows + k * f_.dim);
    }
  }

  F f_;
};

}  // namespace embstore::EMBSTORE_ISA
