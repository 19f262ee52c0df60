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
  // Ids that share a row are apart by multiples of `cold`.
  template <bool Signed>
  EMBSTORE_INLINE std::array<const uint8_t*, 1 + Signed> found(int64_t id, int64_t row) const {
    const uint8_t* at = table + row * row_bytes;
    if constexpr (Signed)
      return {at, reinterpret_cast<const uint8_t*>(uintptr_t(row < hot ? 0 : id / cold))};
    else
      return {at};
  }
};

// A row number for each id.
template <bool Signed>
struct MapAddress : Rows {
  static constexpr bool kSigned = Signed;
  using Place = std::array<const uint8_t*, 1 + Signed>;
  RowArrays<1> map;

  MapAddress(const TableView& t, int64_t bytes) : Rows(t, bytes), map(t, {"map"}) {}
  EMBSTORE_INLINE Place place(int64_t id) const {
    const int64_t row = *reinterpret_cast<const uint32_t*>(map.place(id)[0]), last = hot + cold - 1;
    return found<Signed>(id, row < last ? row : last);
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const { prefetch_lines(at[0], row_bytes); }
};

// Hot ids in ascending order; the others hashed.
template <class Id, bool Signed>
struct ListAddress : Rows {
  static constexpr bool kSigned = Signed;
  using Place = std::array<const uint8_t*, 1 + Signed>;
  int64_t seed;
  const Id* ids;

  ListAddress(const TableView& t, int64_t bytes)
      : Rows(t, bytes),
        seed(t.params.integer("seed", 0)),
        ids(reinterpret_cast<const Id*>(shared_rows(t, "hot_ids", hot, sizeof(Id)))) {}
  EMBSTORE_INLINE Place place(int64_t id) const {
    // The last hot id that is not above, by halves and without a branch to mispredict.
    const Id* near = ids;
    for (int64_t n = hot; n > 1;) {
      const int64_t half = n / 2;
      near = near[half] <= uint64_t(id) ? near + half : near;
      n -= half;
    }
    const bool is_hot = hot > 0 && *near == uint64_t(id);
    const int64_t shared = Signed ? id % cold : reduce(scramble(id, seed), cold);
    return found<Signed>(id, is_hot ? near - ids : hot + shared);
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const { prefetch_lines(at[0], row_bytes); }
};

template <bool Signed>
std::unique_ptr<Kernel> adapt_of(const TableView& t) {
  if (!t.params.is("map", "hot_ids")) return gather_kernel<MapAddress<Signed>>(t);
  if (t.num_embeddings <= int64_t(1) << 32) return gather_kernel<ListAddress<uint32_t, Signed>>(t);
  return gather_kernel<ListAddress<uint64_t, Signed>>(t);
}

std::unique_ptr<Kernel> adapt_kernel(const TableView& t) {
  return t.params.integer("sign", 0) != 0 ? adapt_of<true>(t) : adapt_of<false>(t);
}

}  // namespace
EMBSTORE_REGISTER(adapt, adapt_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
