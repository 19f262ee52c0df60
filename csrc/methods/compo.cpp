#include "methods/_gather.h"

namespace embstore::EMBSTORE_ISA {
namespace {

enum class Op { kMultiply, kAdd, kConcat };

// One row of each of K tables.
template <class Row, int K>
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
      tables[i] = shared_rows(t, ("table" + std::to_string(i)).c_str(), rows, Row::bytes(width[i]));
    }
  }
  EMBSTORE_INLINE Place place(int64_t id) const {
    Place at;
    for (int i = 0; i < K - 1; ++i) {
      const int64_t quotient = id / collisions;
      at[i] = tables[i] + (id - quotient * collisions) * Row::bytes(width[i]);
      id = quotient;
    }
    at[K - 1] = tables[K - 1] + id * Row::bytes(width[K - 1]);
    return at;
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const {
    for (int i = 0; i < K; ++i) prefetch_lines(at[i], Row::bytes(width[i]));
  }
};

template <class Row, int K>
struct CompoDecode {
  Digits<Row, K> arrays;
  int64_t dim, line_bytes;
  using Place = typename Digits<Row, K>::Place;

  explicit CompoDecode(const TableView& table)
      : arrays(table), dim(table.embedding_dim), line_bytes(Row::bytes(dim) * (arrays.op == Op::kConcat ? 1 : K)) {}

  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    if (arrays.op == Op::kConcat) return concatenate(place, sink);
    const auto rows = opened(place, std::make_index_sequence<K>());
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, Row::kStep>(j, dim, [&](int64_t at) { sink.many(at, composed(rows, 0, at)); });
#endif
    for (; j < dim; ++j) {
      float value = rows[0].one(j);
      for (int i = 1; i < K; ++i) value = arrays.op == Op::kAdd ? value + rows[i].one(j) : value * rows[i].one(j);
      sink.one(j, value);
    }
  }
#if !defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return arrays.op != Op::kConcat && dim % Row::kStep == 0; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const auto rows = opened(place, std::make_index_sequence<K>());
    const uint8_t* first = rows[0].codes;
    over_columns<N, Group>(first, first + Row::offset(dim - Group * Width),
                           [&](int k, const uint8_t* from, int64_t j) { body(k, composed(rows, from - first, j)); });
  }
#endif

 private:
  template <size_t... I>
  static EMBSTORE_INLINE std::array<Row, K> opened(const Place& place, std::index_sequence<I...>) {
    return {Row(place[I])...};
  }
#if !defined(EMBSTORE_ISA_REF)
  EMBSTORE_INLINE Floats composed(const std::array<Row, K>& rows, int64_t offset, int64_t j) const {
    Floats value = rows[0].vector(rows[0].codes + offset, j);
    for (int i = 1; i < K; ++i) {
      const Floats other = rows[i].vector(rows[i].codes + offset, j);
      value = arrays.op == Op::kAdd ? add(value, other) : mul(value, other);
    }
    return value;
  }
#endif
  template <class Sink>
  void concatenate(const Place& place, Sink& sink) const {
    int64_t first = 0;
    for (int i = 0; i < K; ++i) {
      const Row row(place[i]);
      int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
      j = over_vectors<Sink, Row::kStep>(j, arrays.width[i],
                                         [&](int64_t at) { sink.many(first + at, row.vector(row.codes, at)); });
#endif
      for (; j < arrays.width[i]; ++j) sink.one(first + j, row.one(j));
      first += arrays.width[i];
    }
  }
};

template <int K>
std::unique_ptr<Kernel> compo_of(const TableView& t) {
  return by_table_dtype(t, [&](auto row) {
    return std::make_unique<RowKernel<CompoDecode<decltype(row), K>>>(CompoDecode<decltype(row), K>(t));
  });
}

std::unique_ptr<Kernel> compo_kernel(const TableView& t) {
  switch (t.params.integer("partitions", 2)) {
    case 1:
      return compo_of<1>(t);
    case 2:
      return compo_of<2>(t);
    case 3:
      return compo_of<3>(t);
    case 4:
      return compo_of<4>(t);
    default:
      throw std::invalid_argument("partitions must be from 1 to 4");
  }
}

}  // namespace
EMBSTORE_REGISTER(compo, compo_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
