#include <memory>
#include <stdexcept>

#include "methods/_mlp.h"
#include "methods/_sine.h"
#include "skeletons/block_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct FourierDecode {
  int64_t dim = 0, block = 96;
  int64_t features, width;
  bool residual;
  mlp::Layer first, last;
  const uint64_t* steps;

  explicit FourierDecode(const TableView& t)
      : dim(t.embedding_dim),
        features(t.params.integer("features", 0)),
        width(t.params.integer("width", 0)),
        residual(t.params.integer("residual", 0) != 0) {
    constexpr int64_t kMost = 1 << 16;
    if (features < 2 || width < 1 || features > kMost || width > kMost || features % 2)
      throw std::invalid_argument("features, even, and width must be positive and at most 65536");
    first = mlp::layer_of(t, 0, features, 2 * width);
    last = mlp::layer_of(t, 1, width, dim);
    steps = reinterpret_cast<const uint64_t*>(shared_rows(t, "steps", features / 2, 8));
  }

  void rows(const int64_t* ids, int64_t n, float* out) const {
    const int64_t panel_size = mlp::panel_floats(std::max(features, width));
    float* x = scratch<FourierDecode>(block * (features + 2 * width) + panel_size);
    float *hidden = x + block * features, *panel = hidden + block * 2 * width;
    for (int64_t i = 0; i < n; ++i) encode(uint64_t(ids[i]), x + i * features);
    mlp::apply(first, x, n, hidden, false, panel);
    for (int64_t i = 0; i < n; ++i) mlp::geglu(hidden + i * 2 * width, width, hidden + i * width);
    mlp::apply(last, hidden, n, out, false, panel);
    const int64_t kept = residual ? std::min(dim, features) : 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < kept; ++j) out[i * dim + j] += x[i * features + j];
  }

 private:
  void encode(uint64_t id, float* x) const {
    const int64_t half = features / 2;
    for (int64_t j = 0; j < half; ++j) {
      const uint32_t phase = uint32_t((steps[j] * (2 * id + 1)) >> 32);
      x[j] = sine(phase);
      x[half + j] = sine(phase + (1u << 30));
    }
  }
};

std::unique_ptr<Kernel> fourier_kernel(const TableView& table) {
  return std::make_unique<BlockKernel<FourierDecode>>(FourierDecode(table));
}

}  // namespace
EMBSTORE_REGISTER(fourier, fourier_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
