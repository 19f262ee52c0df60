#include "methods/_gather.h"

namespace embstore::EMBSTORE_ISA {
namespace {

enum class Op { kMultiply, kAdd, kConcat };

// One row of each of K tables.
template <int K>
struct Digits {
  using Place = std::array<const uint8_t*, K>;
  Op op;
  int64_t collisions;
  std::array<int64_t, K> width;
  std::array<const uint8_t*, K> tables;

  explicit Digits(const TableView& t)
      : op(t.params.is("op", "concat") ? Op::kConcat
           : t.params.is("op", "add")  ? Op::kAdd
                                       : Op::kMultiply),
        collisions(t.params.integer("collisions", 1)) {
    if (collisions < 1) throw std::invalid_argument("collisions must be at least 1");
    int64_t last = t.num_embeddings > 0 ? t.num_embeddings - 1 : 0;
    for (int i = 0; i < K; ++i) {
      width[i] = op == Op::kConcat ? t.embedding_dim / K + (i < t.embedding_dim % K) : t.embedding_dim;
      const int64_t rows = i < K - 1 ? collisions : last + 1;
      last /= collisions;
      tables[i] = shared_rows(t, ("table" + std::to_string(i)).c_str(), rows, 4 * width[i]);
    }
  }
  EMBSTORE_INLINE Place place(int64_t id) const {
    Place at;
    for (int i = 0; i < K - 1; ++i) {
      const int64_t quotient = id / collisions;
      at[i] = tables[i] + (id - quotient * collisions) * width[i] * 4;
      id = quotient;
    }
    at[K - 1] = tables[K - 1] + id * width[K - 1] * 4;
    return at;
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const {
    for (int i = 0; i < K; ++i) prefetch_lines(at[i], width[i] * 4);
  }
};

template <int K>
struct CompoDecode {
  Digits<K> arrays;
  int64_t dim, line_bytes;
  using Place = typename Digits<K>::Place;

  explicit CompoDecode(const TableView& table)
      : arrays(table), dim(table.embedding_dim), line_bytes(4 * dim * (arrays.op == Op::kConcat ? 1 : K)) {}

  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    if (arrays.op == Op::kConcat) return concatenate(place, sink);
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, 1>(j, dim, [&](int64_t at) { sink.many(at, composed(place, 4 * at)); });
#endif
    for (; j < dim; ++j) {
      float value = float_at(place[0], j);
      for (int i = 1; i < K; ++i)
        value = arrays.op == Op::kAdd ? value + float_at(place[i], j) : value * float_at(place[i], j);
      sink.one(j, value);
    }
  }
#if !defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return arrays.op != Op::kConcat; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const uint8_t* tail = place[0] + (dim - Group * Width) * 4;
    over_columns<N, Group>(place[0], tail, [&](int k, const uint8_t* from, int64_t j) {
      body(k, composed(place, from + 4 * j - place[0]));
    });
  }
#endif

 private:
  static float float_at(const uint8_t* row, int64_t j) { return reinterpret_cast<const float*>(row)[j]; }
#if !defined(EMBSTORE_ISA_REF)
  EMBSTORE_INLINE Floats composed(const Place& place, int64_t bytes) const {
    Floats value = load(reinterpret_cast<const float*>(place[0] + bytes));
    for (int i = 1; i < K; ++i) {
      const Floats other = load(reinterpret_cast<const float*>(place[i] + bytes));
      value = arrays.op == Op::kAdd ? add(value, other) : mul(value, other);
    }
    return value;
  }
#endif
  template <class Sink>
  void concatenate(const Place& place, Sink& sink) const {
    int64_t j = 0;
    for (int i = 0; i < K; ++i) {
      const int64_t first = j, end = j + arrays.width[i];
#if !defined(EMBSTORE_ISA_REF)
      j = over_vectors<Sink, 1>(
          j, end, [&](int64_t at) { sink.many(at, load(reinterpret_cast<const float*>(place[i]) + at - first)); });
#endif
      for (; j < end; ++j) sink.one(j, float_at(place[i], j - first));
    }
  }
};

std::unique_ptr<Kernel> compo_kernel(const TableView& t) {
  switch (t.params.integer("partitions", 2)) {
    case 1:
      return std::make_unique<RowKernel<CompoDecode<1>>>(CompoDecode<1>(t));
    case 2:
      return std::make_unique<RowKernel<CompoDecode<2>>>(CompoDecode<2>(t));
    case 3:
      return std::make_unique<RowKernel<CompoDecode<3>>>(CompoDecode<3>(t));
    case 4:
      return std::make_unique<RowKernel<CompoDecode<4>>>(CompoDecode<4>(t));
    default:
      throw std::invalid_argument("partitions must be from 1 to 4");
  }
}

}  // namespace
EMBSTORE_REGISTER(compo, compo_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
