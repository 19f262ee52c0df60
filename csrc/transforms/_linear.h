// Codes to rows by a matrix and a mean: row = sum over k of code[k] * matrix[k], then + weight * mean, in this order,
// each operation rounded, as embstore/transforms/_linear.py has it.
#pragma once
#include <stdexcept>

#include "core/simd.h"
#include "core/transform.h"

namespace embstore::EMBSTORE_ISA {

inline const float* floats_of(const TransformView& view, const char* name, int64_t count) {
  auto at = view.shared.find(name);
  if (at == view.shared.end() || at->second.nbytes != count * 4)
    throw std::invalid_argument(std::string("a transform's array ") + name + " is missing or of the wrong size");
  return reinterpret_cast<const float*>(at->second.data);
}

inline void add_mean(float* row, const float* mean, int64_t dim, const float* weight) {
  if (weight == nullptr)
    for (int64_t j = 0; j < dim; ++j) row[j] += mean[j];
  else
    for (int64_t j = 0; j < dim; ++j) row[j] += *weight * mean[j];
}

class Linear final : public Transform {
 public:
  explicit Linear(const TransformView& view, const char* matrix)
      : code_dim_(view.code_dim), row_dim_(view.row_dim), mean_(nullptr) {
    if (view.shared.count("mean") != 0) mean_ = floats_of(view, "mean", row_dim_);
    matrix_ = floats_of(view, matrix, code_dim_ * row_dim_);
  }

  void undo(float* in, int64_t n, const float* weights, float* out) const noexcept override {
    int64_t r = 0;
    for (; r + 4 <= n; r += 4) rows<4>(in + r * code_dim_, out + r * row_dim_);
    for (; r < n; ++r) rows<1>(in + r * code_dim_, out + r * row_dim_);
    if (mean_ != nullptr)
      for (r = 0; r < n; ++r) add_mean(out + r * row_dim_, mean_, row_dim_, weights == nullptr ? nullptr : weights + r);
  }

 private:
  // R rows share each load of the matrix; kColumns registers of each are summed over all of k.
  template <int R>
  void rows(const float* in, float* out) const noexcept {
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    constexpr int kColumns = 2;
    for (; j + kColumns * Width <= row_dim_; j += kColumns * Width) {
      Floats sums[R][kColumns];
      for (int c = 0; c < kColumns; ++c)
        for (int r = 0; r < R; ++r) sums[r][c] = mul(set1(in[r * code_dim_]), load(matrix_ + j + c * Width));
      for (int64_t k = 1; k < code_dim_; ++k) {
        const float* line = matrix_ + k * row_dim_ + j;
        for (int c = 0; c < kColumns; ++c) {
          const Floats weight = load(line + c * Width);
          for (int r = 0; r < R; ++r) sums[r][c] = add(sums[r][c], mul(set1(in[r * code_dim_ + k]), weight));
        }
      }
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < kColumns; ++c) store(out + r * row_dim_ + j + c * Width, sums[r][c]);
    }
#endif
    for (int r = 0; r < R; ++r) {
      const float* code = in + r * code_dim_;
      float* row = out + r * row_dim_;
      for (int64_t c = j; c < row_dim_; ++c) row[c] = code[0] * matrix_[c];
      for (int64_t k = 1; k < code_dim_; ++k)
        for (int64_t c = j; c < row_dim_; ++c) row[c] += code[k] * matrix_[k * row_dim_ + c];
    }
  }

  int64_t code_dim_, row_dim_;
  const float* mean_;
  const float* matrix_;
};

}  // namespace embstore::EMBSTORE_ISA
