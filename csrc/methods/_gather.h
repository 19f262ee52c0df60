// Methods whose rows are float32 rows of shared tables, found by an address computed from the id.
#pragma once
#include <stdexcept>

#include "skeletons/row_decode.h"

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

// Address: place(id) -> array of one pointer to a row of dim floats.
template <class Address>
struct GatherDecode {
  Address arrays;
  int64_t dim, line_bytes;
  using Place = typename Address::Place;

  GatherDecode(const TableView& table) : arrays(table), dim(table.embedding_dim), line_bytes(4 * table.embedding_dim) {}
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const auto* row = reinterpret_cast<const float*>(place[0]);
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, 1>(j, dim, [&](int64_t at) { sink.many(at, load(row + at)); });
#endif
    for (; j < dim; ++j) sink.one(j, row[j]);
  }
#if !defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return true; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const uint8_t* tail = place[0] + (dim - Group * Width) * 4;
    over_columns<N, Group>(place[0], tail, [&](int k, const uint8_t* from, int64_t j) {
      body(k, load(reinterpret_cast<const float*>(from) + j));
    });
  }
#endif
};

template <class Address>
std::unique_ptr<Kernel> gather_kernel(const TableView& table) {
  return std::make_unique<RowKernel<GatherDecode<Address>>>(GatherDecode<Address>(table));
}

}  // namespace embstore::EMBSTORE_ISA
