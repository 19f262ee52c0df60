#include "methods/_gather.h"

namespace embstore::EMBSTORE_ISA {
namespace {

// A row of the shared table, the id's weight and, where Own is 2, its bias; where Signed, the pattern of its signs.
template <class Row, int Own, bool Signed>
struct SharedAndOwn {
  using Place = std::array<const uint8_t*, 1 + Own + Signed>;
  int64_t rows, row_bytes;
  const uint8_t* table;
  RowArrays<Own> own;

  static std::array<const char*, Own> names() {
    if constexpr (Own == 1)
      return {"weight"};
    else
      return {"weight", "bias"};
  }
  explicit SharedAndOwn(const TableView& t)
      : rows(t.params.integer("rows", 1)),
        row_bytes(Row::bytes(t.embedding_dim)),
        table(shared_rows(t, "table", rows, row_bytes)),
        own(t, names()) {}
  EMBSTORE_INLINE Place place(int64_t id) const {
    const auto found = own.place(id);
    Place at;
    at[0] = table + id % rows * row_bytes;
    for (int k = 0; k < Own; ++k) at[1 + k] = found[k];
    if constexpr (Signed) at[1 + Own] = reinterpret_cast<const uint8_t*>(uintptr_t(id / rows));
    return at;
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const {
    prefetch_lines(at[0], row_bytes);
    for (int k = 0; k < Own; ++k) prefetch(at[1 + k]);
  }
};

template <class Row, int Own, bool Signed>
struct MemcomDecode {
  using Place = typename SharedAndOwn<Row, Own, Signed>::Place;
  SharedAndOwn<Row, Own, Signed> arrays;
  int64_t dim, line_bytes;

  explicit MemcomDecode(const TableView& table)
      : arrays(table), dim(table.embedding_dim), line_bytes(arrays.row_bytes + 64) {}

  static float number(const uint8_t* at) { return *reinterpret_cast<const float*>(at); }
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const Row row(place[0]);
    const float weight = number(place[1]), bias = number(place[Own]);
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    const Floats weights = set1(weight), biases = set1(bias);
    j = over_vectors<Sink, Row::kStep>(j, dim, [&](int64_t at) {
      sink.many(at, own(with_signs(row.vector(row.codes, at), place, at), weights, biases));
    });
#endif
    for (; j < dim; ++j) {
      float value = row.one(j);
      if constexpr (Signed) value = pattern(place).one(value, j);
      sink.one(j, Own == 2 ? value * weight + bias : value * weight);
    }
  }
#if !defined(EMBSTORE_ISA_REF)
  static EMBSTORE_INLINE Floats own(Floats v, Floats weights, Floats biases) {
    return Own == 2 ? add(mul(v, weights), biases) : mul(v, weights);
  }
  bool one_scale() const { return dim % Row::kStep == 0; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const Floats weights = set1(number(place[1])), biases = set1(number(place[Own]));
    const Row row(place[0]);
    over_columns<N, Group>(row.codes, row.codes + Row::offset(dim - Group * Width),
                           [&](int k, const uint8_t* from, int64_t j) {
                             const int64_t column = k < N - Group ? j : dim - Group * Width + j;
                             body(k, own(with_signs(row.vector(from, j), place, column), weights, biases));
                           });
  }
#endif

 private:
  static EMBSTORE_INLINE Signs pattern(const Place& place) { return {uint64_t(uintptr_t(place[1 + Own]))}; }
#if !defined(EMBSTORE_ISA_REF)
  static EMBSTORE_INLINE Floats with_signs(Floats v, const Place& place, int64_t j) {
    if constexpr (Signed)
      return pattern(place).many(v, j);
    else
      return v;
  }
#endif
};

template <class Row, bool Signed>
std::unique_ptr<Kernel> memcom_of(const TableView& t) {
  if (t.params.integer("bias", 0) != 0)
    return std::make_unique<RowKernel<MemcomDecode<Row, 2, Signed>>>(MemcomDecode<Row, 2, Signed>(t));
  return std::make_unique<RowKernel<MemcomDecode<Row, 1, Signed>>>(MemcomDecode<Row, 1, Signed>(t));
}

std::unique_ptr<Kernel> memcom_kernel(const TableView& t) {
  if (t.params.integer("rows", 1) < 1) throw std::invalid_argument("rows must be at least 1");
  return by_table_dtype(t, [&](auto row) -> std::unique_ptr<Kernel> {
    using Row = decltype(row);
    return t.params.integer("sign", 0) != 0 ? memcom_of<Row, true>(t) : memcom_of<Row, false>(t);
  });
}

}  // namespace
EMBSTORE_REGISTER(memcom, memcom_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
