#include "methods/_gather.h"
#include "methods/_hashing.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Rows {
  int64_t hot, cold, row_bytes;
  const uint8_t* table;
  Rows(const TableView& t, int64_t bytes)
      : hot(t.params.integer("hot", 0)),
        cold(t.params.integer("cold", 1)),
        row_bytes(bytes),
        table(shared_rows(t, "table", hot + cold, row_bytes)) {
    if (hot < 0 || cold < 1) throw std::invalid_argument("hot must not be negative and cold at least 1");
  }
};

// A row number for each id.
struct MapAddress : Rows {
  using Place = std::array<const uint8_t*, 1>;
  RowArrays<1> map;

  MapAddress(const TableView& t, int64_t bytes) : Rows(t, bytes), map(t, {"map"}) {}
  EMBSTORE_INLINE Place place(int64_t id) const {
    const int64_t row = *reinterpret_cast<const uint32_t*>(map.place(id)[0]), last = hot + cold - 1;
    return {table + (row < last ? row : last) * row_bytes};
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const { prefetch_lines(at[0], row_bytes); }
};

// Hot ids in ascending order; the others hashed.
template <class Id>
struct ListAddress : Rows {
  using Place = std::array<const uint8_t*, 1>;
  int64_t seed;
  const Id* ids;

  ListAddress(const TableView& t, int64_t bytes)
      : Rows(t, bytes),
        seed(t.params.integer("seed", 0)),
        ids(reinterpret_cast<const Id*>(shared_rows(t, "hot_ids", hot, sizeof(Id)))) {}
  EMBSTORE_INLINE Place place(int64_t id) const {
    // The last hot id that is not above, by halves and without a branch to mispredict.
    const Id* found = ids;
    for (int64_t n = hot; n > 1;) {
      const int64_t half = n / 2;
      found = found[half] <= uint64_t(id) ? found + half : found;
      n -= half;
    }
    const bool is_hot = hot > 0 && *found == uint64_t(id);
    const int64_t shared = hot + reduce(scramble(id, seed), cold);
    return {table + (is_hot ? found - ids : shared) * row_bytes};
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const { prefetch_lines(at[0], row_bytes); }
};

std::unique_ptr<Kernel> adapt_kernel(const TableView& t) {
  if (!t.params.is("map", "hot_ids")) return gather_kernel<MapAddress>(t);
  if (t.num_embeddings <= int64_t(1) << 32) return gather_kernel<ListAddress<uint32_t>>(t);
  return gather_kernel<ListAddress<uint64_t>>(t);
}

}  // namespace
EMBSTORE_REGISTER(adapt, adapt_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
