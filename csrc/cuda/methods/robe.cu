// Chunks of a row are runs of a pool of values, from where a hash of the id and the chunk says, and may have signs.
#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_robe.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/methods/_values.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

struct Robe : NoTable {
  static constexpr int kColumns = 4, kInFlight = 2;
  using Place = RobePlaces::Place;
  int dim;
  RobePlaces places;
  Stored kind;
  const uint8_t* pool;
  float step;

  explicit Robe(const Table& t)
      : dim(int(t.embedding_dim)),
        places(t.params),
        kind(stored_kind(t.params, "pool_dtype", Stored::kFloat)),
        pool(shared_items<uint8_t>(t, "pool", places.size * stored_bytes(kind))),
        step(kind == Stored::kInt8 ? *host_items<float>(t, "step", 1) : 1.0f) {
    for (int k = 0; k < 6; ++k) places.factors[k] = scramble(k, t.params.integer("seed", 0)) % (kPrime - 1) + 1;
  }

  EMBSTORE_HD Place place(int64_t id) const { return places.place(id); }

  template <int V>
  EMBSTORE_HD FourStored fetch(const Place& at, int j) const {
    static_assert(V == 4);
    const int c = j / places.chunk, into = j - c * places.chunk;
    const int64_t from = places.start(at, c) + into;
    if (into + V <= places.chunk && from + V <= places.size)
      return read_four(pool + from * stored_bytes(kind), kind, stored_bytes(kind));
    FourStored four = {};
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (j + k < dim) put(four, k, at, j + k);
    return four;
  }

  template <int V>
  EMBSTORE_HD void decode(const FourStored& raw, const Place& at, int j, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = raw.value(k, kind);
      if (kind == Stored::kInt8) v[k] = v[k] * step;
      if (places.negative(at, j + k)) v[k] = -v[k];
    }
  }

 private:
  // One value, in the place it would have been loaded to.
  EMBSTORE_HD void put(FourStored& four, int k, const Place& at, int j) const {
    const int c = j / places.chunk;
    const int64_t from = places.wrapped(places.start(at, c) + (j - c * places.chunk));
    if (kind == Stored::kFloat)
      four.words[k] = read<uint32_t>(pool + 4 * from);
    else
      four.words[0] |= uint32_t(read<uint8_t>(pool + from)) << (8 * k);
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(robe, row_kernel<Robe>);
}  // namespace embstore::cuda
