#include "transforms/_linear.h"

namespace embstore::EMBSTORE_ISA {
namespace {

class Center final : public Transform {
 public:
  explicit Center(const TransformView& view) : dim_(view.row_dim), mean_(floats_of(view, "mean", view.row_dim)) {
    if (view.code_dim != view.row_dim) throw std::invalid_argument("center keeps the number of values");
  }
  void undo(float* in, int64_t n, const float* weights, float* out) const noexcept override {
    const int64_t dim = dim_;  // copies: the compiler need not fear that a store to `out` changes them
    const float* mean = mean_;
    for (int64_t r = 0; r < n; ++r, in += dim, out += dim) {
      const float weight = weights == nullptr ? 1.0f : weights[r];  // 1 times the mean is the mean
      for (int64_t j = 0; j < dim; ++j) out[j] = in[j] + weight * mean[j];
    }
  }
  bool apply(const float* in, int64_t n, float* out) const noexcept override {
    const int64_t dim = dim_;
    const float* mean = mean_;
    for (int64_t r = 0; r < n; ++r, in += dim, out += dim)
      for (int64_t j = 0; j < dim; ++j) out[j] = in[j] - mean[j];
    return true;
  }

 private:
  int64_t dim_;
  const float* mean_;
};

}  // namespace

EMBSTORE_REGISTER_TRANSFORM(center, [](const TransformView& view) -> std::unique_ptr<Transform> {
  return std::make_unique<Center>(view);
});

}  // namespace embstore::EMBSTORE_ISA
