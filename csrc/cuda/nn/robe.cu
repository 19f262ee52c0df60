// Runs of a pool of values, which other rows share: see csrc/cuda/methods/_robe.cuh.
#include "cuda/methods/_robe.cuh"
#include "cuda/skeletons/trained.cuh"

namespace embstore::cuda {
namespace {

struct Robe {
  using Place = RobePlaces::Place;
  int dim;
  RobePlaces places;
  const float* pool;
  float* gradient;

  explicit Robe(const TrainedCall& c)
      : dim(int(c.dim)),
        places(c.params),
        pool(c.values<float>("pool", places.size)),
        gradient(c.gradient("pool", places.size)) {
    for (int k = 0; k < 6; ++k)
      places.factors[k] = uint64_t(c.params.integer(("factor" + std::to_string(k)).c_str(), 0));
  }

  EMBSTORE_HD Place place(int64_t id) const { return places.place(id); }

  EMBSTORE_HD void rows(const Place& at, int j, int n, float (&v)[4]) const {
    each(at, j, n, [&](int k, int64_t from, float sign) { v[k] = read(pool + from) * sign; });
  }
  EMBSTORE_HD void add(const Place& at, int j, int n, const float (&g)[4]) const {
    each(at, j, n, [&](int k, int64_t from, float sign) { add_one(gradient + from, g[k] * sign); });
  }

 private:
  // body(column - j, place in the pool, sign). Runs begin anywhere, so values come one by one; lanes that are
  // neighbours read neighbours.
  template <class Body>
  EMBSTORE_HD void each(const Place& at, int j, int n, Body body) const {
    int c = j / places.chunk;
    int64_t run = places.start(at, c);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k >= n) continue;
      if (j + k >= (c + 1) * places.chunk) run = places.start(at, ++c);
      body(k, places.wrapped(run + (j + k - c * places.chunk)), places.negative(at, j + k) ? -1.0f : 1.0f);
    }
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER_TRAINED(robe, trained<Robe>);
}  // namespace embstore::cuda
