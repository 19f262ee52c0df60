#include "transforms/_linear.h"

namespace embstore::EMBSTORE_ISA {
namespace {

class Center final : public Transform {
 public:
  explicit Center(const TransformView& view) : dim_(view.row_dim), mean_(floats_of(view, "mean", view.row_dim)) {
    if (view.code_dim != view.row_dim) throw std::invalid_argument("center keeps the number of values");
  }
  void undo(float* in, int64_t n, const float* weights, float* out) const noexcept override {
    for (int64_t r = 0; r < n; ++r) {
      float* row = out + r * dim_;
      std::memcpy(row, in + r * dim_, size_t(dim_) * sizeof(float));
      add_mean(row, mean_, dim_, weights == nullptr ? nullptr : weights + r);
    }
  }
  bool apply(const float* in, int64_t n, float* out) const noexcept override {
    for (int64_t r = 0; r < n; ++r)
      for (int64_t j = 0; j < dim_; ++j) out[r * dim_ + j] = in[r * dim_ + j] - mean_[j];
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
