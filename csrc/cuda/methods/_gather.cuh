// Methods whose rows are rows of a shared table, found by an address computed from the id.
#pragma once
#include "cuda/core/bytes.cuh"
#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_shared.cuh"

namespace embstore::cuda {

enum class Address { kRemainder, kHash, kMap, kHotIds32, kHotIds64 };

struct GatherPlan {
  Address address = Address::kRemainder;
  int64_t rows = 1;  // of the table; those from `hot` on are shared by the ids that are not hot
  int64_t hot = 0, seed = 0;
  const uint8_t* where = nullptr;  // a row number for each id, or the hot ids, ascending
  bool sign = false;               // ids that share a row have signs of their own (csrc/methods/_signs.h)
  // What each id has of its own, null for none; rows with weights are found by remainders.
  const float *weight = nullptr, *bias = nullptr;

  // Value j is negated where pattern AND j has an odd number of bits. Columns are fewer than 2**32.
  struct Found {
    int64_t row, pattern;
  };
  EMBSTORE_HD Found row_of(int64_t id) const {
    if (address == Address::kRemainder) return {modulo(id, rows), id / rows};
    const uint64_t hashed = scramble(id, seed);
    if (address == Address::kHash) return {reduce(hashed, rows), int64_t(hashed)};
    const int64_t cold = rows - hot;
    int64_t row;
    if (address == Address::kMap) {
      row = smaller<int64_t>(read<uint32_t>(where + 4 * id), rows - 1);
    } else {
      row = address == Address::kHotIds32 ? search<uint32_t>(id) : search<uint64_t>(id);
      if (row < 0) row = hot + (sign ? id % cold : reduce(hashed, cold));
    }
    return {row, row < hot ? 0 : id / cold};
  }

 private:
  // Where a hot id stands among them; -1 for another.
  template <class Id>
  EMBSTORE_HD int64_t search(int64_t id) const {
    const auto* ids = reinterpret_cast<const Id*>(where);
    int64_t found = 0;
    for (int64_t n = hot; n > 1;) {
      const int64_t half = n / 2;
      found = uint64_t(hot_id(ids, found + half)) <= uint64_t(id) ? found + half : found;
      n -= half;
    }
    return hot > 0 && uint64_t(hot_id(ids, found)) == uint64_t(id) ? found : -1;
  }
  EMBSTORE_HD static uint64_t hot_id(const uint32_t* ids, int64_t k) { return read(ids + k); }
  EMBSTORE_HD static uint64_t hot_id(const uint64_t* ids, int64_t k) {
    return read(reinterpret_cast<const unsigned long long*>(ids) + k);
  }
};

// The table is the shared array `table`, stored as table_dtype says.
std::unique_ptr<Kernel> gather_kernel(const Table& table, const GatherPlan& plan);

}  // namespace embstore::cuda
