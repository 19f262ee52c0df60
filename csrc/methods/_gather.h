// Methods whose rows are rows of shared tables, found by an address computed from the id.
#pragma once
#include <stdexcept>

#include "methods/_signs.h"
#include "methods/_table_rows.h"

namespace embstore::EMBSTORE_ISA {

inline const uint8_t* shared_rows(const TableView& table, const char* name, int64_t rows, int64_t row_bytes) {
  auto at = table.shared.find(name);
  if (at == table.shared.end() || at->second.nbytes != rows * row_bytes)
    throw std::invalid_argument(std::string("the array ") + name + " is missing or of the wrong size");
  return at->second.data;
}

// Asks for every line of `bytes` from `at`.
EMBSTORE_INLINE void prefetch_lines(const uint8_t* at, int64_t bytes) {
  for (int64_t step = 0; step < bytes; step += 64) prefetch(at + step);
  prefetch(at + bytes - 1);
}

// Address: row_bytes, place(id) -> array of one pointer to a row that Row reads; where kSigned is true the second
// pointer is the number that the row's signs are the pattern of.
template <class Address, class Row>
struct GatherDecode {
  Address arrays;
  int64_t dim, line_bytes;
  using Place = typename Address::Place;

  GatherDecode(const TableView& table)
      : arrays(table, Row::bytes(table.embedding_dim)), dim(table.embedding_dim), line_bytes(arrays.row_bytes) {}
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const Row row(place[0]);
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, Row::kStep>(
        j, dim, [&](int64_t at) { sink.many(at, with_signs(row.vector(row.codes, at), place, at)); });
#endif
    for (; j < dim; ++j) {
      if constexpr (Address::kSigned)
        sink.one(j, pattern(place).one(row.one(j), j));
      else
        sink.one(j, row.one(j));
    }
  }
#if !defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return dim % Row::kStep == 0; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const Row row(place[0]);
    over_columns<N, Group>(row.codes, row.codes + Row::offset(dim - Group * Width),
                           [&](int k, const uint8_t* from, int64_t j) {
                             const int64_t column = k < N - Group ? j : dim - Group * Width + j;
                             body(k, with_signs(row.vector(from, j), place, column));
                           });
  }
#endif

 private:
  static EMBSTORE_INLINE Signs pattern(const Place& place) { return {uint64_t(uintptr_t(place[1]))}; }
#if !defined(EMBSTORE_ISA_REF)
  static EMBSTORE_INLINE Floats with_signs(Floats v, const Place& place, int64_t j) {
    if constexpr (Address::kSigned)
      return pattern(place).many(v, j);
    else
      return v;
  }
#endif
};

template <class Address>
std::unique_ptr<Kernel> gather_kernel(const TableView& table) {
  return by_table_dtype(table, [&](auto row) {
    return std::make_unique<RowKernel<GatherDecode<Address, decltype(row)>>>(
        GatherDecode<Address, decltype(row)>(table));
  });
}

}  // namespace embstore::EMBSTORE_ISA
