// Codes to rows by a matrix and a mean: row = sum over k of code[k] * matrix[k], then + weight * mean, in this order,
// each operation rounded, as embstore/transforms/_linear.py has it.
#pragma once
#include <stdexcept>

#include "core/transform.h"
#include "skeletons/multiply.h"

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
    multiply(in, n, code_dim_, matrix_, row_dim_, out);
    if (mean_ != nullptr)
      for (int64_t r = 0; r < n; ++r)
        add_mean(out + r * row_dim_, mean_, row_dim_, weights == nullptr ? nullptr : weights + r);
  }

 private:
  int64_t code_dim_, row_dim_;
  const float* mean_;
  const float* matrix_;
};

}  // namespace embstore::EMBSTORE_ISA
