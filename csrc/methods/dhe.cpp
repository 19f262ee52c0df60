#include <cmath>
#include <memory>
#include <stdexcept>

#include "methods/_hashing.h"
#include "methods/_mlp.h"
#include "skeletons/block_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct DheDecode {
  int64_t dim = 0, block = 96;
  int64_t hashes, width = 1;
  bool gaussian;
  std::vector<mlp::Layer> layers;
  std::vector<uint64_t> slopes, offsets;

  explicit DheDecode(const TableView& t)
      : dim(t.embedding_dim), hashes(t.params.integer("hashes", 1)), gaussian(t.params.is("encoding", "gaussian")) {
    width = t.params.integer("width", 1);
    const int64_t hidden = t.params.integer("layers", 1), seed = t.params.integer("seed", 0);
    constexpr int64_t kMost = 1 << 16;
    if (hashes < 1 || width < 1 || hidden < 1 || hashes > kMost || width > kMost || hidden > 16)
      throw std::invalid_argument("hashes, width and layers must be positive, and at most 65536, 65536 and 16");
    if (gaussian && hashes % 2) throw std::invalid_argument("hashes must be even for Gaussian encodings");
    for (int64_t i = 0; i <= hidden; ++i)
      layers.push_back(mlp::layer_of(t, i, i == 0 ? hashes : width, i == hidden ? dim : width));
    for (int64_t j = 0; j < hashes; ++j) {
      slopes.push_back(scramble(2 * j, seed) | 1);
      offsets.push_back(scramble(2 * j + 1, seed));
    }
  }

  void rows(const int64_t* ids, int64_t n, float* out) const {
    const int64_t longest = std::max(hashes, width);
    float* a = scratch<DheDecode>(2 * block * longest + mlp::panel_floats(longest));
    float *b = a + block * longest, *panel = b + block * longest;
    for (int64_t i = 0; i < n; ++i) encode(ids[i], a + i * hashes);
    for (size_t i = 0; i < layers.size(); ++i) {
      const bool last = i + 1 == layers.size();
      mlp::apply(layers[i], a, n, last ? out : b, !last, panel);
      std::swap(a, b);
    }
  }

 private:
  void encode(int64_t id, float* x) const {
    const uint64_t* slope = slopes.data();
    const uint64_t* offset = offsets.data();
    if (!gaussian) {
      for (int64_t j = 0; j < hashes; ++j) {
        const uint64_t hashed = (uint64_t(id) * slope[j] + offset[j]) >> 40;
        x[j] = float(int32_t(2 * hashed + 1) - (1 << 24)) * (1.0f / (1 << 24));
      }
      return;
    }
    for (int64_t j = 0; j < hashes; j += 2) {
      const uint64_t h = (uint64_t(id) * slope[j] + offset[j]) >> 40;
      const uint64_t g = (uint64_t(id) * slope[j + 1] + offset[j + 1]) >> 40;
      const double u = double(2 * h + 1) / (1 << 25), angle = 6.283185307179586 * (double(2 * g + 1) / (1 << 25));
      const double radius = std::sqrt(-2 * std::log(u));
      x[j] = float(radius * std::cos(angle));
      x[j + 1] = float(radius * std::sin(angle));
    }
  }
};

std::unique_ptr<Kernel> dhe_kernel(const TableView& table) {
  return std::make_unique<BlockKernel<DheDecode>>(DheDecode(table));
}

}  // namespace
EMBSTORE_REGISTER(dhe, dhe_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
