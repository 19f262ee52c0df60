// Chunks of a row are runs of a pool of values, from where a hash of the id and the chunk says, and may have signs.
#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/methods/_values.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

constexpr uint64_t kPrime = 2038074743;  // 2 * kPrime < 2^32

struct Robe : NoTable {
  static constexpr int kColumns = 4, kInFlight = 2;
  struct Place {
    uint64_t by_id;  // the id's part of the hash of a chunk
    uint32_t base;   // and of that of a sign
  };
  int dim, chunk;
  int64_t size;
  uint32_t starts;
  bool sign;
  uint64_t factors[6];  // B, C, D of the offsets, B', C', D' of the signs
  Stored kind;
  const uint8_t* pool;
  float step;

  explicit Robe(const Table& t)
      : dim(int(t.embedding_dim)),
        size(t.params.integer("size", 1)),
        sign(t.params.integer("sign", 0) != 0),
        kind(stored_kind(t.params, "pool_dtype", Stored::kFloat)),
        pool(shared_items<uint8_t>(t, "pool", size * stored_bytes(kind))),
        step(kind == Stored::kInt8 ? *host_items<float>(t, "step", 1) : 1.0f) {
    const int64_t length = t.params.integer("chunk", 1);
    if (length < 1 || size < length || size > int64_t(kPrime))
      throw std::invalid_argument("the pool must hold a chunk, and at most 2038074743 values");
    chunk = int(length);
    starts = uint32_t(t.params.integer("wrap", 0) != 0 ? size : size - length + 1);
    for (int k = 0; k < 6; ++k) factors[k] = scramble(k, t.params.integer("seed", 0)) % (kPrime - 1) + 1;
  }

  EMBSTORE_HD Place place(int64_t id) const {
    const uint64_t x = uint64_t(id) % kPrime;
    return {x * factors[0], sign ? uint32_t((x * factors[3] + factors[5]) % kPrime) : 0};
  }

  template <int V>
  EMBSTORE_HD FourStored fetch(const Place& at, int j) const {
    static_assert(V == 4);
    const int c = j / chunk, into = j - c * chunk;
    const int64_t from = start(at, c) + into;
    if (into + V <= chunk && from + V <= size)
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
      if (sign && even(at.base, uint32_t(uint64_t(j + k) * factors[4] % kPrime))) v[k] = -v[k];
    }
  }

 private:
  EMBSTORE_HD int64_t start(const Place& at, int c) const {
    return int64_t(uint32_t((at.by_id + uint64_t(c) * factors[1] + factors[2]) % kPrime) % starts);
  }
  // One value, in the place it would have been loaded to.
  EMBSTORE_HD void put(FourStored& four, int k, const Place& at, int j) const {
    const int c = j / chunk;
    int64_t from = start(at, c) + (j - c * chunk);
    from = from >= size ? from - size : from;  // a run that wraps around
    if (kind == Stored::kFloat)
      four.words[k] = read<uint32_t>(pool + 4 * from);
    else
      four.words[0] |= uint32_t(read<uint8_t>(pool + from)) << (8 * k);
  }
  EMBSTORE_HD static bool even(uint32_t base, uint32_t by) {
    const uint32_t sum = base + by;
    return ((sum < kPrime ? sum : sum - uint32_t(kPrime)) & 1) == 0;
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(robe, row_kernel<Robe>);
}  // namespace embstore::cuda
