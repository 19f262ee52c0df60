// Deep hash embedding: hashes of the id through an MLP.
#include <cmath>

#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_mlp.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

// What the first layer takes: uniform or, two by two, Gaussian numbers.
struct Hashes : NoTable {
  static constexpr int kColumns = 4, kInFlight = 2;
  struct Place {
    int64_t id;
  };
  struct Nothing {};
  int dim;
  int64_t seed;
  bool gaussian;

  EMBSTORE_HD Place place(int64_t id) const { return {id}; }
  template <int V>
  EMBSTORE_HD Nothing fetch(const Place&, int) const {
    return {};
  }
  template <int V>
  EMBSTORE_HD void decode(const Nothing&, const Place& at, int j, float (&v)[V]) const {
    static_assert(V % 2 == 0);
#pragma unroll
    for (int k = 0; k < V; k += 2) {
      const uint64_t h = hashed(at.id, j + k), g = hashed(at.id, j + k + 1);
      if (gaussian) {
        pair(h, g, v[k], v[k + 1]);
      } else {
        v[k] = uniform(h);
        v[k + 1] = uniform(g);
      }
    }
  }

 private:
  EMBSTORE_HD uint64_t hashed(int64_t id, int j) const {
    return (uint64_t(id) * (scramble(2 * int64_t(j), seed) | 1) + scramble(2 * int64_t(j) + 1, seed)) >> 40;
  }
  EMBSTORE_HD static float uniform(uint64_t h) { return float(int32_t(2 * h + 1) - (1 << 24)) * (1.0f / (1 << 24)); }
  // In doubles, whose last bits a device's functions may give otherwise than the host's: floats seldom show it.
  EMBSTORE_HD static void pair(uint64_t h, uint64_t g, float& a, float& b) {
    const double u = double(2 * h + 1) / (1 << 25), turns = double(2 * g + 1) / (1 << 25);
    const double radius = sqrt(-2 * log(u));
#if defined(__CUDA_ARCH__)
    double sine, cosine;
    sincospi(2 * turns, &sine, &cosine);
#else
    const double angle = 6.283185307179586 * turns, sine = std::sin(angle), cosine = std::cos(angle);
#endif
    a = float(radius * cosine);
    b = float(radius * sine);
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  const int64_t hashes = t.params.integer("hashes", 1), width = t.params.integer("width", 1);
  const int64_t hidden = t.params.integer("layers", 1), dim = t.embedding_dim;
  constexpr int64_t kMost = 1 << 16;
  if (hashes < 1 || width < 1 || hidden < 1 || hashes > kMost || width > kMost || hidden > 16)
    throw std::invalid_argument("hashes, width and layers must be positive, and at most 65536, 65536 and 16");
  Hashes first;
  first.dim = int(hashes);
  first.seed = t.params.integer("seed", 0);
  first.gaussian = t.params.is("encoding", "gaussian");
  if (first.gaussian && hashes % 2) throw std::invalid_argument("hashes must be even for Gaussian encodings");
  auto made = std::make_unique<MappedKernel>(row_kernel_of(first, t), t.num_embeddings, hashes, false);
  for (int64_t i = 0; i <= hidden; ++i) {
    const int64_t out = i == hidden ? dim : width;
    made->append(layer_map(t, i, i == 0 ? hashes : width, out, i < hidden), out);
  }
  return made;
}

}  // namespace
EMBSTORE_CUDA_REGISTER(dhe, kernel);
}  // namespace embstore::cuda
