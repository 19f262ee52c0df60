// Scores of product codes from tables: the product of a query with a row is a sum of entries of the query's tables, one
// of each. Entries are rounded to integers as in csrc/search/_tables.h, with its bits, so that scores are upper bounds.
// A block has the tables of eight queries in its own memory, their entries of one code side by side: a load serves all
// eight. A functor C has
//   int dim, m, bits, count;              count: entries of a table
//   Place place(int64_t id) const;        id in range
//   void four(const Place&, int s, uint32_t (&c)[4]) const;   codes s to s + 3 of a row, of those beyond m any
//   float centroid(int s, int64_t code, int j) const;         its value of column j, which slice s has
#pragma once
#include "cuda/search/coded.cuh"

namespace embstore::cuda {

inline constexpr int kTogether = 8;
inline constexpr int64_t kTableBytes = 64 << 10;  // of a block's own memory

EMBSTORE_HD float larger(float a, float b) { return a < b ? b : a; }
EMBSTORE_HD float magnitude(float x) { return x < 0.0f ? -x : x; }

// A block makes the tables of a query: products, their bounds by table, what is common, integers, what these lose.
template <class C>
struct MakeTablesTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 1;
  C codes;
  const float* queries;    // n x dim
  const float* constants;  // n
  int64_t n;
  int top;
  float* products;   // n x entries
  uint16_t* tables;  // n x entries
  QueryTerms* terms;

  struct Table {
    float low, high, lost;
  };
  struct Common {
    float step, inverse, magnitude;
    int bounded;
  };

  int64_t blocks(const Target&) const { return n; }
  int64_t shared_bytes() const { return 16 + int64_t(codes.m) * int64_t(sizeof(Table)); }
  EMBSTORE_HD int phases(const Grid&) const { return 6; }
  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* common = reinterpret_cast<Common*>(shared);
    auto* bounds = reinterpret_cast<Table*>(shared + sizeof(Common));
    const int64_t entries = int64_t(codes.m) * codes.count;
    float* own = products + grid.block * entries;
    uint16_t* integers = tables + grid.block * entries;
    if (p == 0) {
      const float* query = queries + grid.block * codes.dim;
      for (int64_t at = grid.thread; at < entries; at += kThreads) {
        const int s = int(at / codes.count);
        float sum = 0.0f;
        for (int j = int(int64_t(s) * codes.dim / codes.m); j < int(int64_t(s + 1) * codes.dim / codes.m); ++j)
          sum = sum + read(query + j) * codes.centroid(s, at % codes.count, j);
        own[at] = sum;
      }
    } else if (p == 1) {
      for (int s = grid.thread; s < codes.m; s += kThreads) {
        const float* entry = own + int64_t(s) * codes.count;
        Table found{entry[0], entry[0], 0.0f};
        for (int c = 1; c < codes.count; ++c) {
          found.low = entry[c] < found.low ? entry[c] : found.low;
          found.high = larger(found.high, entry[c]);
        }
        bounds[s] = found;
      }
    } else if (p == 2) {
      if (grid.thread == 0) *common = common_of(bounds);
    } else if (p == 3) {
      for (int64_t at = grid.thread; at < entries; at += kThreads)
        integers[at] = common->bounded != 0 ? uint16_t(integer(own[at], bounds[at / codes.count].low, *common)) : 0;
    } else if (p == 4) {
      for (int s = grid.thread; s < codes.m; s += kThreads) {
        float lost = 0.0f;
        for (int64_t at = int64_t(s) * codes.count; at < int64_t(s + 1) * codes.count; ++at)
          lost = larger(lost, own[at] - (bounds[s].low + float(integers[at]) * common->step));
        bounds[s].lost = lost;
      }
    } else if (grid.thread == 0) {
      double offset = 0.0;
      for (int s = 0; s < codes.m; ++s) offset += double(bounds[s].low) + double(bounds[s].lost);
      offset += double(common->magnitude) * double(codes.m + 8) * 0x1p-23 + 0x1p-145;
      // Without bounds of their sums a query finds nothing: infinities are no scores here.
      terms[grid.block] = {common->bounded != 0 ? float(offset) : bits_float(0x7f800000u), common->step,
                           read(constants + grid.block)};
    }
  }

 private:
  EMBSTORE_HD Common common_of(const Table* bounds) const {
    float range = 0.0f, sum = 0.0f;
    for (int s = 0; s < codes.m; ++s) {
      range = larger(range, bounds[s].high - bounds[s].low);
      sum = sum + larger(magnitude(bounds[s].low), magnitude(bounds[s].high));
    }
    if (!finite(sum) || !finite(range)) return {0.0f, 0.0f, sum, 0};
    const float step = range / float(top);
    return {step, step > 0x1p-120f ? 1.0f / step : 0.0f, sum, 1};
  }
  EMBSTORE_HD int integer(float product, float low, const Common& common) const {
    return smaller(top, int((product - low) * common.inverse + 0.5f));
  }
};

template <class C>
struct TableScanTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2;
  C codes;
  SearchCall call;
  CodedQueries queries;
  int64_t first, stride, n, tiles;
  int groups;

  TableScanTask(const C& of, const ScanCall& scan, const CodedQueries& given)
      : codes(of),
        call(*scan.search),
        queries(given),
        first(scan.first),
        stride(scan.stride),
        n(scan.n),
        tiles((scan.n + kThreads - 1) / kThreads),
        groups((call.count + kTogether - 1) / kTogether) {}
  int64_t entries() const { return int64_t(codes.m) * codes.count; }
  int64_t shared_bytes() const { return entries() * kTogether * 2; }
  int64_t blocks(const Target& target) const { return smaller(tiles, int64_t(target.processors) * kBlocks); }
  EMBSTORE_HD int phases(const Grid&) const { return 2 * groups; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    const int group = p / 2;
    if (p % 2 == 0) {
      auto* to = reinterpret_cast<uint16_t*>(shared);
      const auto* from = reinterpret_cast<const uint16_t*>(queries.words);
      const int64_t each = int64_t(codes.m) * codes.count;
      for (int64_t at = grid.thread; at < each * kTogether; at += kThreads) {
        const int64_t q = at / each, entry = at % each;
        to[entry * kTogether + q] =
            group * kTogether + q < call.count ? read(from + (group * kTogether + q) * each + entry) : uint16_t(0);
      }
      return;
    }
    const auto* table = reinterpret_cast<const uint32_t*>(shared);
    for (int64_t i = grid.block * kThreads + grid.thread; i < n; i += grid.blocks * kThreads) score(i, group, table);
  }

 private:
  EMBSTORE_HD void score(int64_t i, int group, const uint32_t* table) const {
    const int64_t id = first + i * stride;
    if (call.allowed != nullptr && read(call.allowed + id) == 0) return;
    const auto at = codes.place(id);
    uint32_t pairs[4] = {};  // two sums of 16 bits each, which they do not outgrow
    for (int s = 0; s < codes.m; s += 4) {
      uint32_t c[4];
      codes.four(at, s, c);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (s + k >= codes.m) break;
        uint32_t entry[4];
        read_four(table + (int64_t(s + k) * codes.count + c[k]) * (kTogether / 2), entry);
#pragma unroll
        for (int w = 0; w < 4; ++w) pairs[w] += entry[w];
      }
    }
    const float square = queries.squares == nullptr ? 0.0f : read(queries.squares + id);
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      const int query = group * kTogether + q;
      if (query >= call.count) continue;
      const QueryTerms terms = queries.terms[query];
      const float bound = float(pairs[q / 2] >> q % 2 * 16 & 0xffffu) * terms.factor + terms.shift;
      offer(call, query, id, adjusted(call.metric, bound + terms.constant, square) + 0.0f);
    }
  }
};

// A kernel that also scores its codes by tables.
template <class Base, class C>
class TableKernel final : public Base, public TableScores {
 public:
  template <class F>
  TableKernel(const F& f, const C& codes, int top, int64_t num_embeddings)
      : Base(f, num_embeddings), codes_(codes), top_(top) {}
  int64_t entries() const override { return int64_t(codes_.m) * codes_.count; }
  void make_tables(const float* queries, const float* constants, int n, float* products, uint16_t* tables,
                   QueryTerms* terms, const Target& target) const override {
    launch(MakeTablesTask<C>{codes_, queries, constants, n, top_, products, tables, terms}, target);
  }
  void scan_coded(const ScanCall& call, const CodedQueries& queries, const Target& target) const override {
    launch(TableScanTask<C>(codes_, call, queries), target);
  }

 private:
  C codes_;
  int top_;
};

}  // namespace embstore::cuda
