// Search over codes: a scorer gives inner products of queries with coded rows in tiles, a scan keeps the best.
//
// Cosine, inner product and L2 are all the same scan: the score of row r for query q is
//   (<q, code r> + constant[q]) * scale[r] + bias[r]
// where constant comes from the transforms, scale is 1 / |row| for cosine, bias is -|row|^2 / 2 for L2.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/table.h"

namespace embstore {

inline constexpr int64_t kTileRows = 256;     // rows scored at a time, never across a shard
inline constexpr int64_t kTileQueries = 128;  // queries at a time: a tile of scores stays in the second-level cache

class Scorer {
 public:
  // What a scorer makes of a group of queries once: tables, quantized copies.
  struct Prepared {
    virtual ~Prepared() = default;
  };
  virtual ~Scorer() = default;
  // queries: count x code_dim, count <= kTileQueries; they stay alive as long as what is returned.
  virtual std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const = 0;
  // tile[q * kTileRows + r] = <query q, row first + r>, for r < count <= kTileRows and every query prepared.
  virtual void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept = 0;
  // Where true, tiles hold upper bounds, and `refine` gives the product of a query with a row that may be among its
  // best.
  virtual bool bounds() const noexcept { return false; }
  virtual float refine(const Prepared&, int64_t /*query*/, int64_t /*row*/) const noexcept { return 0.0f; }
};

// Null where the scorer cannot serve this table: it is decoded then.
using ScorerFactory = std::unique_ptr<Scorer> (*)(const TableView&);
bool register_scorer(const char* method, const char* isa, ScorerFactory factory);
ScorerFactory find_scorer(const std::string& method);  // null if the method has none of its own

// The scorer every method gets: rows decoded, then multiplied.
using DecodeScorerFactory = std::unique_ptr<Scorer> (*)(const Kernel&, int64_t code_dim);
bool register_decode_scorer(const char* isa, DecodeScorerFactory factory);
DecodeScorerFactory find_decode_scorer();

// The k best rows of each query. Equal scores: the smaller id is better.
class TopK {
 public:
  using Hit = std::pair<float, int64_t>;
  TopK(int64_t queries, int64_t k)
      : k_(k), heaps_(size_t(queries)), thresholds_(size_t(queries), -std::numeric_limits<float>::infinity()) {}

  static bool better(const Hit& a, const Hit& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  }
  // A score must be above this, or equal with a smaller id, to count. Minus infinity while there is room.
  float threshold(int64_t q) const { return thresholds_[size_t(q)]; }
  void push(int64_t q, float score, int64_t id) {
    auto& heap = heaps_[size_t(q)];
    const Hit hit{score, id};
    if (int64_t(heap.size()) == k_) {
      if (!better(hit, heap.front())) return;
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.pop_back();
    }
    heap.push_back(hit);
    std::push_heap(heap.begin(), heap.end(), better);
    if (int64_t(heap.size()) == k_) thresholds_[size_t(q)] = heap.front().first;
  }
  void merge(const TopK& other) {
    for (size_t q = 0; q < heaps_.size(); ++q)
      for (const Hit& hit : other.heaps_[q]) push(int64_t(q), hit.first, hit.second);
  }
  // Best first; -1 where there are fewer than k.
  void result(int64_t q, int64_t* ids) const {
    auto sorted = heaps_[size_t(q)];
    std::sort(sorted.begin(), sorted.end(), better);
    for (int64_t i = 0; i < k_; ++i) ids[i] = i < int64_t(sorted.size()) ? sorted[size_t(i)].second : -1;
  }

 private:
  int64_t k_;
  std::vector<std::vector<Hit>> heaps_;
  std::vector<float> thresholds_;
};

// What all threads of a search know: a score below the floor of a query is not among its k best.
class Floors {
 public:
  explicit Floors(int64_t queries) : floors_(size_t(queries)) {
    for (auto& each : floors_) each.store(-std::numeric_limits<float>::infinity(), std::memory_order_relaxed);
  }
  float of(int64_t q) const { return floors_[size_t(q)].load(std::memory_order_relaxed); }
  void raise(int64_t q, float to) {
    auto& floor = floors_[size_t(q)];
    float seen = floor.load(std::memory_order_relaxed);
    while (seen < to && !floor.compare_exchange_weak(seen, to, std::memory_order_relaxed)) {
    }
  }

 private:
  std::vector<std::atomic<float>> floors_;
};

struct Scan {
  const Scorer* scorer = nullptr;
  const Scorer::Prepared* prepared = nullptr;
  int64_t queries = 0;
  int64_t rows_per_shard = 0;
  const float* constants = nullptr;  // per query; null for zero
  const float* scales = nullptr;     // per row; null for one
  const float* biases = nullptr;     // per row; null for zero
  const uint8_t* allowed = nullptr;  // per row, nonzero to be found; null for all
  Floors* floors = nullptr;
};
// Scores rows [first, last) and keeps the best.
using ScanFunction = void (*)(const Scan& scan, int64_t first, int64_t last, TopK& best);
bool register_scan(const char* isa, ScanFunction scan);
ScanFunction find_scan();

}  // namespace embstore

#define EMBSTORE_REGISTER_SCORER(id, factory) \
  static const bool registered_scorer_##id = ::embstore::register_scorer(#id, EMBSTORE_STRING(EMBSTORE_ISA), factory)
