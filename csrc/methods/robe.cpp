#include <memory>
#include <vector>

#include "methods/_gather.h"
#include "methods/_hashing.h"

namespace embstore::EMBSTORE_ISA {
namespace {

constexpr uint64_t kPrime = 2038074743;  // 2 * kPrime < 2^32

struct FloatPool {
  using Item = float;
  static float step(const TableView&) { return 1.0f; }
  static float one(float x, float) { return x; }
#if !defined(EMBSTORE_ISA_REF)
  static EMBSTORE_INLINE Floats many(const float* p, float) { return load(p); }
#endif
};

// One step for the whole pool.
struct BytePool {
  using Item = int8_t;
  static float step(const TableView& t) { return *reinterpret_cast<const float*>(shared_rows(t, "step", 1, 4)); }
  static float one(int8_t x, float step) { return float(x) * step; }
#if !defined(EMBSTORE_ISA_REF)
  static EMBSTORE_INLINE Floats many(const int8_t* p, float step) { return mul(from_i8(p), set1(step)); }
#endif
};

// Where the chunks of a row start. A place is the id itself: offsets are hashed again for the decoding, which costs
// less than keeping a number of pointers that depends on the table.
template <class Pool>
struct Chunks {
  using Place = std::array<const uint8_t*, 1>;
  using Item = typename Pool::Item;
  int64_t dim, size, chunk;
  uint32_t starts;
  bool wrap, sign;
  uint64_t factors[6];  // B, C, D of the offsets, B', C', D' of the signs
  const Item* pool;
  float step;

  explicit Chunks(const TableView& t)
      : dim(t.embedding_dim),
        size(t.params.integer("size", 1)),
        chunk(t.params.integer("chunk", 1)),
        wrap(t.params.integer("wrap", 0) != 0),
        sign(t.params.integer("sign", 0) != 0),
        pool(reinterpret_cast<const Item*>(shared_rows(t, "pool", size, sizeof(Item)))),
        step(Pool::step(t)) {
    if (chunk < 1 || size < chunk || size > int64_t(kPrime))
      throw std::invalid_argument("the pool must hold a chunk, and at most 2038074743 values");
    starts = uint32_t(wrap ? size : size - chunk + 1);
    for (int k = 0; k < 6; ++k) factors[k] = scramble(k, t.params.integer("seed", 0)) % (kPrime - 1) + 1;
  }
  EMBSTORE_INLINE Place place(int64_t id) const { return {reinterpret_cast<const uint8_t*>(uintptr_t(id))}; }
  EMBSTORE_INLINE uint64_t reduced(const Place& at) const { return uintptr_t(at[0]) % kPrime; }
  EMBSTORE_INLINE int64_t start(uint64_t by_id, int64_t c) const {
    return int64_t(uint32_t((by_id + uint64_t(c) * factors[1] + factors[2]) % kPrime) % starts);
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const {
    const uint64_t by_id = reduced(at) * factors[0];
    for (int64_t j = 0, c = 0; j < dim; j += chunk, ++c) {
      const Item* run = pool + start(by_id, c);
      const int64_t width = chunk < dim - j ? chunk : dim - j;
      for (int64_t k = 0; k < width; k += int64_t(64 / sizeof(Item))) prefetch(run + k);
      // A wrapping run ends elsewhere, and is rare.
      prefetch(run + width - 1);
    }
  }
};

template <class Pool>
struct RobeDecode {
  using Place = typename Chunks<Pool>::Place;
  using Item = typename Pool::Item;
  Chunks<Pool> arrays;
  int64_t dim, line_bytes;
  // C' j mod P for each column j.
  std::shared_ptr<const std::vector<uint32_t>> steps;

  explicit RobeDecode(const TableView& table)
      : arrays(table),
        dim(table.embedding_dim),
        line_bytes(int64_t(sizeof(Item)) * dim + 64 * ((dim - 1) / arrays.chunk)) {
    std::vector<uint32_t> found(arrays.sign ? size_t(dim) : 0);
    for (size_t j = 0; j < found.size(); ++j) found[j] = uint32_t(j * arrays.factors[4] % kPrime);
    steps = std::make_shared<const std::vector<uint32_t>>(std::move(found));
  }

  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const uint64_t x = arrays.reduced(place), by_id = x * arrays.factors[0];
    const uint32_t base = arrays.sign ? uint32_t((x * arrays.factors[3] + arrays.factors[5]) % kPrime) : 0;
    int64_t j = 0;
    for (int64_t c = 0; j < dim; ++c) {
      const int64_t first = j, end = j + arrays.chunk < dim ? j + arrays.chunk : dim;
      const int64_t at = arrays.start(by_id, c);
      const bool wraps = at + end - first > arrays.size;
#if !defined(EMBSTORE_ISA_REF)
      if (!wraps)
        j = over_vectors<Sink, 1>(j, end, [&](int64_t k) {
          const Floats v = Pool::many(arrays.pool + at + k - first, arrays.step);
          sink.many(k, arrays.sign ? with_signs(v, base, steps->data() + k) : v);
        });
#endif
      for (; j < end; ++j) {
        const int64_t from = at + j - first;
        const float value =
            Pool::one(arrays.pool[wraps && from >= arrays.size ? from - arrays.size : from], arrays.step);
        sink.one(j, arrays.sign && even(base, (*steps)[size_t(j)]) ? -value : value);
      }
    }
  }
#if !defined(EMBSTORE_ISA_REF)
  // Only rows of one run are held in registers by bags.
  bool one_scale() const { return arrays.chunk >= dim && !arrays.wrap && !arrays.sign; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const auto* run =
        reinterpret_cast<const uint8_t*>(arrays.pool + arrays.start(arrays.reduced(place) * arrays.factors[0], 0));
    const auto* tail = run + (dim - Group * Width) * int64_t(sizeof(Item));
    over_columns<N, Group>(run, tail, [&](int k, const uint8_t* from, int64_t j) {
      body(k, Pool::many(reinterpret_cast<const Item*>(from) + j, arrays.step));
    });
  }
#endif

 private:
  static bool even(uint32_t base, uint32_t step) {
    const uint32_t sum = base + step;
    return ((sum < kPrime ? sum : sum - uint32_t(kPrime)) & 1) == 0;
  }
#if !defined(EMBSTORE_ISA_REF)
  using Lanes = uint32_t __attribute__((vector_size(4 * Width)));
  static EMBSTORE_INLINE Floats with_signs(Floats v, uint32_t base, const uint32_t* step) {
    Lanes sum;
    std::memcpy(&sum, step, sizeof sum);
    sum += base;
    const Lanes less = sum - uint32_t(kPrime);
    sum = sum < less ? sum : less;  // where sum < P, sum - P wraps around to more than P
    return (Floats)((Lanes)v ^ ((~sum & 1) << 31));
  }
#endif
};

std::unique_ptr<Kernel> robe_kernel(const TableView& table) {
  if (table.params.is("pool_dtype", "int8"))
    return std::make_unique<RowKernel<RobeDecode<BytePool>>>(RobeDecode<BytePool>(table));
  return std::make_unique<RowKernel<RobeDecode<FloatPool>>>(RobeDecode<FloatPool>(table));
}

}  // namespace
EMBSTORE_REGISTER(robe, robe_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
