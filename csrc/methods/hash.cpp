#include "methods/_gather.h"
#include "methods/_hashing.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <bool Signed>
struct HashAddress {
  static constexpr bool kSigned = Signed;
  using Place = std::array<const uint8_t*, 1 + Signed>;
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
    const uint64_t hashed = mix ? scramble(id, seed) : 0;
    const int64_t row = mix ? reduce(hashed, rows) : id % rows;
    if constexpr (Signed) {
      const uint64_t pattern = mix ? uint32_t(hashed) : uint64_t(id / rows);
      return {table + row * row_bytes, reinterpret_cast<const uint8_t*>(uintptr_t(pattern))};
    } else {
      return {table + row * row_bytes};
    }
  }
  EMBSTORE_INLINE void prefetch_row(const Place& at) const { prefetch_lines(at[0], row_bytes); }
};

std::unique_ptr<Kernel> hash_kernel(const TableView& t) {
  if (t.params.integer("rows", 1) < 1) throw std::invalid_argument("rows must be at least 1");
  if (t.params.integer("sign", 0) != 0) return gather_kernel<HashAddress<true>>(t);
  return gather_kernel<HashAddress<false>>(t);
}

}  // namespace
EMBSTORE_REGISTER(hash, hash_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
