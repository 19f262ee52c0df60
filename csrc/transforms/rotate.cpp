// Signs and Hadamard transforms, undone. Butterflies are sums and differences of two values, so every instruction set
// and numpy give the same bits.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "core/simd.h"
#include "core/transform.h"

namespace embstore::EMBSTORE_ISA {
namespace {

inline void butterflies(float* x, int64_t p, int64_t h) {
  for (int64_t i = 0; i < p; i += 2 * h)
    for (int64_t j = i; j < i + h; ++j) {
      const float a = x[j], b = x[j + h];
      x[j] = a + b;
      x[j + h] = a - b;
    }
}

// Constant spans let the compiler keep the small butterflies in registers.
template <int64_t H>
inline void butterflies(float* x, int64_t p) {
  for (int64_t i = 0; i < p; i += 2 * H)
    for (int64_t j = i; j < i + H; ++j) {
      const float a = x[j], b = x[j + H];
      x[j] = a + b;
      x[j + H] = a - b;
    }
}

class Rotate final : public Transform {
 public:
  explicit Rotate(const TransformView& view) : dim_(view.row_dim), window_(1) {
    const int64_t stages = view.params.integer("stages", 0), bytes = (dim_ + 7) / 8;
    auto at = view.shared.find("signs");
    if (view.code_dim != view.row_dim || stages < 1 || at == view.shared.end() || at->second.nbytes != stages * bytes)
      throw std::invalid_argument("the signs of rotate are missing or of the wrong size");
    while (window_ * 2 <= dim_) window_ *= 2;
    scale_ = float(1.0 / std::sqrt(double(window_)));
    for (int64_t s = 0; s < stages; ++s)
      for (int64_t j = 0; j < dim_; ++j)
        signs_.push_back(((at->second.data[s * bytes + j / 8] >> (j % 8)) & 1) != 0 ? -1.0f : 1.0f);
    stages_ = stages;
  }

  void undo(float* in, int64_t n, const float*, float* out) const noexcept override {
    for (int64_t r = 0; r < n; ++r) {
      float* x = in + r * dim_;
      for (int64_t s = stages_ - 1; s >= 0; --s) {
        hadamard(s % 2 == 0 ? x : x + dim_ - window_);
        const float* signs = signs_.data() + s * dim_;
        float* to = s == 0 ? out + r * dim_ : x;
        for (int64_t j = 0; j < dim_; ++j) to[j] = x[j] * signs[j];
      }
    }
  }

 private:
  void hadamard(float* x) const noexcept {
    if (window_ >= 2) butterflies<1>(x, window_);
    if (window_ >= 4) butterflies<2>(x, window_);
    if (window_ >= 8) butterflies<4>(x, window_);
    if (window_ >= 16) butterflies<8>(x, window_);
    for (int64_t h = 16; h < window_; h *= 2) butterflies(x, window_, h);
    for (int64_t j = 0; j < window_; ++j) x[j] *= scale_;
  }

  int64_t dim_, window_, stages_ = 0;
  float scale_ = 1.0f;
  std::vector<float> signs_;
};

}  // namespace

EMBSTORE_REGISTER_TRANSFORM(rotate, [](const TransformView& view) -> std::unique_ptr<Transform> {
  return std::make_unique<Rotate>(view);
});

}  // namespace embstore::EMBSTORE_ISA
