// Sines of multiples of the id through a gated layer.
#include "cuda/methods/_mlp.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/row_decode.cuh"
#include "methods/_sine.h"

namespace embstore::cuda {
namespace {

// What the first layer takes: sines, then cosines.
struct Waves : ByColumn<Waves> {
  static constexpr int kInFlight = 2;
  struct Place {
    uint64_t odd;  // twice the id and 1
  };
  int dim;
  const unsigned long long* steps;

  EMBSTORE_HD Place place(int64_t id) const { return {2 * uint64_t(id) + 1}; }
  EMBSTORE_HD float one(const Place& at, int j) const {
    const int half = dim / 2, wave = j < half ? j : j - half;
    const auto phase = uint32_t((read(steps + wave) * at.odd) >> 32);
    return sine(j < half ? phase : phase + (1u << 30));
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  const int64_t features = t.params.integer("features", 0), width = t.params.integer("width", 0);
  const int64_t dim = t.embedding_dim;
  constexpr int64_t kMost = 1 << 16;
  if (features < 2 || width < 1 || features > kMost || width > kMost || features % 2)
    throw std::invalid_argument("features, even, and width must be positive and at most 65536");
  Waves waves;
  waves.dim = int(features);
  waves.steps = shared_items<unsigned long long>(t, "steps", features / 2);
  const int64_t residual = t.params.integer("residual", 0) == 0 ? 0 : smaller(dim, features);
  auto made = std::make_unique<MappedKernel>(row_kernel_of(waves, t), t.num_embeddings, features, false);
  made->append(layer_map(t, 0, features, 2 * width, false), 2 * width);
  made->append(geglu_map(width), width);
  made->append(layer_map(t, 1, width, dim, false, features, residual), dim);
  return made;
}

}  // namespace
EMBSTORE_CUDA_REGISTER(fourier, kernel);
}  // namespace embstore::cuda
