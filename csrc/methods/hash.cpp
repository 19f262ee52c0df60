#include "methods/_gather.h"
#include "methods/_hashing.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct HashAddress {
  using Place = std::array<const uint8_t*, 1>;
  int64_t rows, seed, row_bytes;
  bool mix;
  const uint8_t* table;

  HashAddress(const TableView& t, int64_t bytes)
      : rows(t.params.integer("rows", 1)),
        seed(t.params.integer("seed", 0)),
        row_bytes(bytes),
        mix(t.params.is("hash", "mix")),
        table(shared_rows(t, "table", rows, row_bytes)) {}
  EMBSTORE_INLINE Place place(int64_t id) const {
    const int64_t row = mix ? reduce(scramble(id, seed), rows) : id % rows;
    return {table + row * row_bytes};
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const { prefetch_lines(at[0], row_bytes); }
};

}  // namespace
EMBSTORE_REGISTER(hash, gather_kernel<HashAddress>, nullptr);
}  // namespace embstore::EMBSTORE_ISA
