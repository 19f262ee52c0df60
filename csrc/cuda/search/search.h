// Search on a device. Every row is scored, and the k best are kept: rows are scanned in samples that grow, each of
// which bounds from below what the next one lets through. Scores are sums in float32 over decoded values, or come from
// codes and queries in integers: then more than k are kept, and scored again from their values.
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
  Hit* lists = nullptr;           // capacity for each query
  Hit* best = nullptr;            // k for each query, best first
  uint32_t* counts = nullptr;     // hits that a list was offered
  uint32_t* lost = nullptr;       // whether the last scan offered a list more than it has room for
  int64_t* candidates = nullptr;  // ids of the k best of each query, while they are scored again
  float* rows = nullptr;          // kDecoded rows, where a method's kernel does not score codes itself
};

inline constexpr int64_t kDecoded = 1 << 15;

struct SearchCall {
  const float* queries = nullptr;  // count x dim
  int count = 0, k = 1;
  Metric metric = Metric::kIp;
  const uint8_t* allowed = nullptr;  // a byte for each row of the table, or null
  int64_t first = 0, last = 0;       // the rows that are searched
  int dim = 0;
  SearchRoom room;
};

// Rows first, first + stride, … of a table, `n` of them, whose scores go to the lists.
struct ScanCall {
  const SearchCall* search = nullptr;
  int64_t first = 0, stride = 1, n = 0;
};

// What makes a score of the integers of a query; see embstore/cuda/coded.py.
struct QueryTerms {
  float shift, factor, constant;
};

// Queries rounded to bytes, or their tables, all on the device.
struct CodedQueries {
  // count x columns: a byte each, filled up to 16 columns with zeros; or count x entries of 16 bits
  const uint32_t* words = nullptr;
  const float* sums = nullptr;  // count x blocks: the sum of a query's bytes over a block
  const QueryTerms* terms = nullptr;
  const float* squares = nullptr;  // the squared length of each row, null for kIp
};

// What a kernel of codes that are scored by tables of the queries is too; see tables.cuh.
class TableScores {
 public:
  virtual ~TableScores() = default;
  virtual int64_t entries() const = 0;  // of the tables of one query
  // Of n queries in the space of codes; products is room for a float for each entry.
  virtual void make_tables(const float* queries, const float* constants, int n, float* products, uint16_t* tables,
                           QueryTerms* terms, const Target& target) const = 0;
};

// Queries that a batch may have, and the largest k.
int most_queries(int dim);
inline constexpr int kMostHits = 4096;
int64_t list_capacity(int k);
// Bytes of a room for so many queries; in the order of SearchRoom's members, each at a multiple of 256.
int64_t room_bytes(int count, int k, int dim);
SearchRoom room_at(uint8_t* memory, int count, int k);

// `first`: from the beginning; otherwise the last scan again, which bounds left by the one before have made smaller.
// Leaves `best`, and tells in `lost` of which queries it is not to be trusted yet. `coded`, of a kernel of codes:
// scores in integers.
void search(const Kernel& kernel, const SearchCall& call, const CodedQueries* coded, bool first, const Target& target);
// Scores what a search with a k of `wanted` has found from its decoded values, as a search without `coded` does, and
// keeps the k best. The room is one for `wanted`.
void rescore(const Kernel& kernel, const SearchCall& call, int wanted, const Target& target);
// The squared length of rows [first, last), summed in float64, to their places in `squares`; `rows` is room for
// kDecoded.
void squared_norms(const Kernel& kernel, int64_t first, int64_t last, int dim, float* rows, float* squares,
                   const Target& target);
// The best k of what each of `parts` has found: hits are parts x count x k, each best first. scores and ids: count x k,
// NaN and -1 where fewer are found. Of kL2 squared distances.
void merge(const Hit* hits, int parts, int count, int k, Metric metric, float* scores, int64_t* ids,
           const Target& target);

}  // namespace embstore::cuda
