// dedup: a row is copied from the blocks its places name. A place beyond the stored blocks decodes to zeros.
#include "methods/_stored.h"
#include "skeletons/indirect.h"

namespace embstore::EMBSTORE_ISA {
namespace {

// T: how values are stored; P: the unsigned integer of places.
template <class T, class P>
struct DedupDecode {
  Rows places;      // of blocks of one row
  const P* shared;  // of larger blocks; null otherwise
  const typename T::Item* blocks;
  int64_t unique, block_rows, block_dims, columns, dim, line_bytes;

  explicit DedupDecode(const TableView& t)
      : shared(nullptr),
        blocks(reinterpret_cast<const typename T::Item*>(t.shared.at("blocks").data)),
        block_rows(t.params.integer("block_rows", 1)),
        block_dims(t.params.integer("block_dims", t.embedding_dim)),
        columns((t.embedding_dim + block_dims - 1) / block_dims),
        dim(t.embedding_dim),
        line_bytes(t.embedding_dim * int64_t(sizeof(typename T::Item)) + 64) {
    unique = t.shared.at("blocks").nbytes / (block_rows * block_dims * int64_t(sizeof(typename T::Item)));
    if (block_rows == 1)
      places = Rows(t, "place");
    else
      shared = reinterpret_cast<const P*>(t.shared.at("place").data);
  }
  const P* place(int64_t id) const {
    return shared == nullptr ? reinterpret_cast<const P*>(places[id]) : shared + id / block_rows * columns;
  }
  const typename T::Item* block(P at, int64_t id) const {
    return blocks + (int64_t(at) * block_rows + id % block_rows) * block_dims;
  }
  void prefetch(int64_t id) const { ::embstore::EMBSTORE_ISA::prefetch(place(id)); }
  void follow(int64_t id) const {
    const P* at = place(id);
    for (int64_t c = 0; c < columns; ++c) {
      if (int64_t(at[c]) >= unique) continue;
      const auto* first = reinterpret_cast<const uint8_t*>(block(at[c], id));
      for (int64_t b = 0; b < block_dims * int64_t(sizeof(typename T::Item)); b += 64)
        ::embstore::EMBSTORE_ISA::prefetch(first + b);
    }
  }
  template <class Sink>
  void decode(int64_t id, Sink& sink) const {
    const P* at = place(id);
    over_blocks(dim, block_dims, [&](int64_t c, int64_t first, int64_t end) {
      int64_t j = first;
      if (int64_t(at[c]) >= unique) {
#if !defined(EMBSTORE_ISA_REF)
        for (; j + Width <= end; j += Width) sink.many(j, set1(0.0f));
#endif
        for (; j < end; ++j) sink.one(j, 0.0f);
        return;
      }
      const auto* values = block(at[c], id);
#if !defined(EMBSTORE_ISA_REF)
#pragma GCC unroll 16
      for (; j + Width <= end; j += Width) sink.many(j, T::many(values + (j - first)));
#endif
      for (; j < end; ++j) sink.one(j, T::one(values[j - first]));
    });
  }
};

template <class T, class P>
std::unique_ptr<Kernel> made(const TableView& t) {
  return std::make_unique<IndirectKernel<DedupDecode<T, P>>>(DedupDecode<T, P>(t));
}

template <class T>
std::unique_ptr<Kernel> of_places(const TableView& t) {
  if (t.params.is("place_dtype", "uint8")) return made<T, uint8_t>(t);
  if (t.params.is("place_dtype", "uint16")) return made<T, uint16_t>(t);
  return made<T, uint32_t>(t);
}

std::unique_ptr<Kernel> dedup_kernel(const TableView& t) {
  return t.params.is("values", "float16") ? of_places<StoredHalf>(t) : of_places<StoredFloat>(t);
}

}  // namespace
EMBSTORE_REGISTER(dedup, dedup_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
