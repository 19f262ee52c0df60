// Exact search on a device. Every row is scored in float32 from its decoded values, and the k best are kept: rows are
// scanned in samples that grow, each of which bounds from below what the next one lets through.
#pragma once
#include "cuda/core/kernel.h"

namespace embstore::cuda {

enum class Metric : int { kCosine = 0, kIp = 1, kL2 = 2 };

// A row found, as one number: a larger score first, of equal ones the smaller id. 0 is none.
using Hit = uint64_t;

// What a scan of a batch of queries works with, all on the device; `words` and `hits` are those of search_room.
struct SearchRoom {
  int64_t capacity = 0;  // hits that a query's list has room for
  Hit* floors = nullptr;
  Hit* lists = nullptr;        // capacity for each query
  Hit* best = nullptr;         // k for each query, best first
  uint32_t* counts = nullptr;  // hits that a list was offered
  uint32_t* lost = nullptr;    // whether the last scan offered a list more than it has room for
  float* rows = nullptr;       // kDecoded rows, where a method's kernel does not score codes itself
};

inline constexpr int64_t kDecoded = 1 << 15;

struct SearchCall {
  const float* queries = nullptr;  // count x dim
  int count = 0, k = 1;
  Metric metric = Metric::kIp;
  const uint8_t* allowed = nullptr;  // a byte for each row, or null
  int64_t num_embeddings = 0;
  int dim = 0;
  SearchRoom room;
};

// Rows first, first + stride, … of a table, `n` of them, whose scores go to the lists.
struct ScanCall {
  const SearchCall* search = nullptr;
  int64_t first = 0, stride = 1, n = 0;
};

// Queries that a batch may have, and the largest k.
int most_queries(int dim);
inline constexpr int kMostHits = 4096;
int64_t list_capacity(int k);
// Bytes of a room for so many queries; in the order of SearchRoom's members, each at a multiple of 256.
int64_t room_bytes(int count, int k, int dim);
SearchRoom room_at(uint8_t* memory, int count, int k, int dim);

// `first`: from the beginning; otherwise the last scan again, which bounds left by the one before have made smaller.
// Leaves `best`, and tells in `lost` of which queries it is not to be trusted yet.
void search(const Kernel& kernel, const SearchCall& call, bool first, const Target& target);
// scores and ids: count x k; NaN and -1 where fewer are found. Of kL2 squared distances.
void results(const SearchCall& call, float* scores, int64_t* ids, const Target& target);

}  // namespace embstore::cuda
