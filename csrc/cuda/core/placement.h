// Tables whose rows do not all lie on one device: how often rows that are kept there are asked for, and which of
// several devices has a row. Plain C++: pointers may lie on a device.
#pragma once
#include "cuda/core/kernel.h"

namespace embstore::cuda {

// For each id in range of a call: seen[id] grows by one, unless it is null, and so does counts[0] where its row is kept
// on the device, counts[1] where it is not.
struct CountCall {
  Integers ids;
  int64_t n = 0;
  int64_t num_embeddings = 0;
  const uint64_t* slots = nullptr;  // slot_of
  uint32_t* seen = nullptr;
  uint64_t* counts = nullptr;
};
void count_ids(const CountCall& call, const Target& target);

// The ids of a call that are of rows [first, last) to `own`, and -1 in the place of others. Where `fault` is not null
// it is told of ids that are not of the table.
struct RouteCall {
  Integers ids;
  int64_t n = 0;
  int64_t num_embeddings = 0;
  int64_t first = 0, last = 0;
  int64_t* own = nullptr;
  Fault* fault = nullptr;
};
void route_ids(const RouteCall& call, const Target& target);

// Row i of `rows` to row i of `out`, where id i is of rows [first, last); or to row places[i], of ids that all are.
// Rows are of whole pairs of bytes.
struct SelectCall {
  Integers ids;
  int64_t n = 0;
  int64_t first = 0, last = 0;
  const int64_t* places = nullptr;  // ids are not looked at then
  const uint8_t* rows = nullptr;
  uint8_t* out = nullptr;
  int64_t row_bytes = 0;
};
void select_rows(const SelectCall& call, const Target& target);

}  // namespace embstore::cuda
