// Methods whose rows are rows of a shared table, found by an address computed from the id.
#pragma once
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
};

// The table is the shared array `table`, stored as table_dtype says.
std::unique_ptr<Kernel> gather_kernel(const Table& table, const GatherPlan& plan);

}  // namespace embstore::cuda
