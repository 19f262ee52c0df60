// Signs and Hadamard transforms, both ways. Rows of a power of two up to 512 values stay in registers from the first
// load to the last store.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "core/transform.h"
#include "transforms/_hadamard.h"

namespace embstore::EMBSTORE_ISA {
namespace {

class Rotate final : public Transform {
 public:
  explicit Rotate(const TransformView& view)
      : dim_(view.row_dim), window_(1), stages_(view.params.integer("stages", 0)) {
    const int64_t bytes = (dim_ + 7) / 8;
    auto at = view.shared.find("signs");
    if (view.code_dim != view.row_dim || stages_ < 1 || at == view.shared.end() || at->second.nbytes != stages_ * bytes)
      throw std::invalid_argument("the signs of rotate are missing or of the wrong size");
    while (window_ * 2 <= dim_) window_ *= 2;
    scale_ = float(1.0 / std::sqrt(double(window_)));
    for (int64_t s = 0; s < stages_; ++s)
      for (int64_t j = 0; j < dim_; ++j)
        signs_.push_back(uint32_t((at->second.data[s * bytes + j / 8] >> (j % 8)) & 1) << 31);
  }

  void undo(float* in, int64_t n, const float*, float* out) const noexcept override {
    if (whole<true>(in, n, out)) return;
    // All rows stage by stage: a window just stored at another alignment would make its next load wait.
    for (int64_t s = stages_ - 1; s >= 0; --s)
      for (int64_t r = 0; r < n; ++r) {
        float* x = in + r * dim_;
        hadamard(window(x, s), window_, scale_);
        flip_all(x, s, s == 0 ? out + r * dim_ : x);
      }
  }

  bool apply(const float* in, int64_t n, float* out) const noexcept override {
    if (whole<false>(in, n, out)) return true;
    constexpr int64_t kRows = 8;  // at a time, stage by stage as in undo, and few enough to stay in the cache
    for (int64_t first = 0; first < n; first += kRows)
      for (int64_t s = 0; s < stages_; ++s)
        for (int64_t r = first; r < std::min(n, first + kRows); ++r) {
          float* x = out + r * dim_;
          flip_all(s == 0 ? in + r * dim_ : x, s, x);
          hadamard(window(x, s), window_, scale_);
        }
    return true;
  }

 private:
  float* window(float* x, int64_t stage) const { return stage % 2 == 0 ? x : x + dim_ - window_; }

  void flip_all(const float* from, int64_t stage, float* to) const noexcept {
    const int64_t dim = dim_;  // a copy: the compiler need not fear that a store to `to` changes it
    const uint32_t* signs = signs_.data() + stage * dim;
    for (int64_t j = 0; j < dim; ++j) to[j] = bits_to_float(float_to_bits(from[j]) ^ signs[j]);
  }

  // Rows that are one window of a few registers; false for others.
  template <bool Undo>
  bool whole(const float* in, int64_t n, float* out) const noexcept {
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
    if (dim_ != window_) return false;
    return with_registers(dim_, [&](auto count) {
      constexpr int N = decltype(count)::value;
      const uint32_t* first = signs_.data();
      const int64_t stages = stages_;
      const Floats scale = set1(scale_);
      for (int64_t r = 0; r < n; ++r, in += N * Width, out += N * Width) {
        Floats x[N];
#pragma GCC unroll 32
        for (int i = 0; i < N; ++i) x[i] = load(in + i * Width);
        for (int64_t t = 0; t < stages; ++t) {
          const uint32_t* signs = first + (Undo ? stages - 1 - t : t) * (N * Width);
          if constexpr (!Undo) flips<N>(x, signs);
          transform<N>(x);
#pragma GCC unroll 32
          for (int i = 0; i < N; ++i) x[i] = mul(x[i], scale);
          if constexpr (Undo) flips<N>(x, signs);
        }
#pragma GCC unroll 32
        for (int i = 0; i < N; ++i) store(out + i * Width, x[i]);
      }
    });
#else
    (void)in, (void)n, (void)out;
    return false;
#endif
  }

#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  template <int N>
  static EMBSTORE_INLINE void flips(Floats (&x)[N], const uint32_t* signs) {
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) x[i] = flip(x[i], load_bits(signs + i * Width));
  }
#endif

  int64_t dim_, window_, stages_;
  float scale_ = 1.0f;
  std::vector<uint32_t> signs_;  // the sign bit to flip, stage by stage
};

}  // namespace

EMBSTORE_REGISTER_TRANSFORM(rotate, [](const TransformView& view) -> std::unique_ptr<Transform> {
  return std::make_unique<Rotate>(view);
});

}  // namespace embstore::EMBSTORE_ISA
