#include "core/transform.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/by_isa.h"

// The conversions of half.h are compiled per instruction set; this file is not.
#define EMBSTORE_ISA plain
#include "core/half.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace embstore {
namespace {

constexpr int64_t kBlockFloats = 2048;  // a block of rows in scratch: two of 8 KiB are half a first-level cache

// To memory that is not read again soon: whole lines bypass the cache.
void copy_past_cache(const float* from, int64_t n, float* out) noexcept {
#if defined(__SSE2__)
  const int64_t head = std::min(n, int64_t((64 - (reinterpret_cast<uintptr_t>(out) & 63)) & 63) / 4);
  std::memcpy(out, from, size_t(head) * sizeof(float));
  int64_t j = head;
  for (; j + 16 <= n; j += 16)
    for (int64_t k = 0; k < 16; k += 4) _mm_stream_ps(out + j + k, _mm_loadu_ps(from + j + k));
  std::memcpy(out + j, from + j, size_t(n - j) * sizeof(float));
#else
  std::memcpy(out, from, size_t(n) * sizeof(float));
#endif
}

}  // namespace

bool register_transform(const char* id, const char* isa, TransformFactory factory) {
  return by_isa<TransformFactory>().add(id, isa, factory);
}
TransformFactory find_transform(const std::string& id) { return by_isa<TransformFactory>().find(id); }

struct TransformedKernel::Scratch {
  explicit Scratch(int64_t floats) : first(size_t(floats)), second(size_t(floats)) {}
  std::vector<float> first, second;
};

TransformedKernel::TransformedKernel(std::unique_ptr<Kernel> inner, int64_t code_dim)
    : inner_(std::move(inner)), code_dim_(code_dim), row_dim_(code_dim), widest_(code_dim) {
  block_ = std::max<int64_t>(1, kBlockFloats / widest_);
}

void TransformedKernel::append(std::unique_ptr<Transform> step, int64_t row_dim) {
  steps_.push_back(std::move(step));
  row_dim_ = row_dim;
  widest_ = std::max(widest_, row_dim);
  block_ = std::max<int64_t>(1, kBlockFloats / widest_);
}

// From scratch.first, by turns through both buffers, to `out`.
void TransformedKernel::undo(Scratch& scratch, int64_t n, const float* weights, float* out) const noexcept {
  float* from = scratch.first.data();
  float* to = scratch.second.data();
  for (size_t i = 0; i < steps_.size(); ++i) {
    float* target = i + 1 == steps_.size() ? out : to;
    steps_[i]->undo(from, n, weights, target);
    std::swap(from, to);
  }
}

void TransformedKernel::lookup(const int64_t* ids, int64_t n, float* out, bool stream) const noexcept {
  const int64_t block = std::min(block_, n);
  Scratch scratch(block * widest_);
  std::vector<float> rows(stream ? size_t(block * row_dim_) : 0);
  for (int64_t i = 0; i < n; i += block) {
    const int64_t count = std::min(block, n - i);
    inner_->lookup(ids + i, count, scratch.first.data(), false);
    undo(scratch, count, nullptr, stream ? rows.data() : out + i * row_dim_);
    if (stream) copy_past_cache(rows.data(), count * row_dim_, out + i * row_dim_);
  }
#if defined(__SSE2__)
  if (stream) _mm_sfence();
#endif
}

void TransformedKernel::lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept {
  Scratch scratch(block_ * widest_);
  std::vector<float> rows(size_t(block_ * row_dim_));
  for (int64_t i = 0; i < n; i += block_) {
    const int64_t count = std::min(block_, n - i);
    inner_->lookup(ids + i, count, scratch.first.data(), false);
    undo(scratch, count, nullptr, rows.data());
    for (int64_t j = 0; j < count * row_dim_; ++j) out[i * row_dim_ + j] = plain::float_to_half(rows[size_t(j)]);
  }
}

void TransformedKernel::bag_max(const int64_t* ids, int64_t begin, int64_t end, Scratch& scratch,
                                float* out) const noexcept {
  std::vector<float> rows(size_t(block_ * row_dim_));
  std::memset(out, 0, size_t(row_dim_) * sizeof(float));
  for (int64_t i = begin; i < end; i += block_) {
    const int64_t count = std::min(block_, end - i);
    inner_->lookup(ids + i, count, scratch.first.data(), false);
    undo(scratch, count, nullptr, rows.data());
    for (int64_t r = 0; r < count; ++r)
      for (int64_t j = 0; j < row_dim_; ++j) {
        const float x = rows[size_t(r * row_dim_ + j)];
        // A NaN on either side wins.
        out[j] = (i == begin && r == 0) || (!(x <= out[j]) && out[j] == out[j]) ? x : out[j];
      }
  }
}

void TransformedKernel::bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last,
                            const float* weights, BagMode mode, float* out) const noexcept {
  Scratch scratch(block_ * widest_);
  if (mode == BagMode::kMax) {
    for (int64_t b = first; b < last; ++b) bag_max(ids, offsets[b], offsets[b + 1], scratch, out + b * row_dim_);
    return;
  }
  std::vector<float> constants(static_cast<size_t>(block_));
  for (int64_t b = first; b < last; b += block_) {
    const int64_t bags = std::min(block_, last - b);
    inner_->bag(ids, offsets + b, 0, bags, weights, mode, scratch.first.data());
    for (int64_t k = 0; k < bags; ++k) {
      const int64_t begin = offsets[b + k], end = offsets[b + k + 1];
      float total = mode == BagMode::kMean ? float(end > begin) : float(end - begin);
      if (weights != nullptr) {
        total = 0.0f;
        for (int64_t i = begin; i < end; ++i) total += weights[i];
      }
      constants[size_t(k)] = total;
    }
    undo(scratch, bags, constants.data(), out + b * row_dim_);
    for (int64_t k = 0; k < bags; ++k)
      if (offsets[b + k] == offsets[b + k + 1])
        std::memset(out + (b + k) * row_dim_, 0, size_t(row_dim_) * sizeof(float));
  }
}

}  // namespace embstore
