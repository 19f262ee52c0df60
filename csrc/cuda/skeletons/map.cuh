// Maps of rows in memory: column by column, or by a matrix. What a map's last step does with rows that are to be left
// out or zero is in one place, MapRows.
#pragma once
#include "cuda/core/transform.h"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {

struct MapRows {
  MapCall call;
  Output out;

  MapRows(const MapCall& c, int64_t out_dim) : call(c), out(c.out, int(out_dim), c.half) {}

  // Columns [j, j + 4) of row r, those beyond it dropped.
  EMBSTORE_HD void store(int64_t r, int j, const float (&v)[4]) const {
    if (call.ids.at != nullptr && uint64_t(read_integer(call.ids, r)) >= uint64_t(call.limit)) return;
    const bool zero = call.empty != nullptr && read(call.empty + r) != 0;
    float kept[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) kept[k] = zero ? 0.0f : v[k];
    out.store<4>(r, j, kept);
  }
  EMBSTORE_HD float weight(int64_t r) const { return call.weights == nullptr ? 1.0f : read(call.weights + r); }
};

// F: int dim; void four(const MapRows&, int64_t r, int j, float (&v)[4]) const: columns [j, j + 4) of a row, of those
// beyond it any.
template <class F>
struct ColumnsTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 4;
  F f;
  MapRows rows;
  int lanes;  // of a row

  ColumnsTask(const F& functor, const MapCall& call)
      : f(functor), rows(call, functor.dim), lanes((functor.dim + 3) / 4) {}
  int64_t blocks(const Target&) const { return (rows.call.n * lanes + kThreads - 1) / kThreads; }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int64_t at = grid.block * kThreads + grid.thread, r = at / lanes;
    if (r >= rows.call.n) return;
    float v[4];
    f.four(rows, r, int(at - r * lanes) * 4, v);
    rows.store(r, int(at - r * lanes) * 4, v);
  }
};

// Rows times a matrix (depth x width), which a thread does for 4 columns of kRows rows: a load of the matrix serves
// them all. F has
//   static constexpr int kRows; int depth, width, align; const float* matrix;   align: of lines of the matrix
//   static constexpr bool kSpans;     only the span of a row that is not zero counts, found in a phase of its own
//   void sum(const ProductTask&, int64_t first, int count, const int* spans, int j, float (&sums)[kRows][4]) const;
//       sums of products, by `over`; spans: the first and the end of each row's
//   void finish(const MapRows&, int64_t r, int j, float (&sum)[4]) const;    what follows, for one row
template <class F>
struct ProductTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2;
  static constexpr int kRows = F::kRows, kLanes = 32;  // of a row of threads: 128 columns
  F f;
  MapRows rows;
  int lanes, groups, in_align;
  int64_t strips;  // of columns

  ProductTask(const F& functor, const MapCall& call) : f(functor), rows(call, functor.width) {
    lanes = smaller((f.width + 3) / 4, kLanes);
    groups = kThreads / lanes;
    strips = (f.width + 4 * lanes - 1) / (4 * lanes);
    in_align = f.depth % 4 == 0 ? 16 : 4;
  }
  int64_t blocks(const Target&) const {
    const int64_t tile = int64_t(groups) * kRows;
    return (rows.call.n + tile - 1) / tile * strips;
  }
  int64_t shared_bytes() const { return F::kSpans ? int64_t(groups) * kRows * 8 : 0; }
  EMBSTORE_HD int phases(const Grid&) const { return F::kSpans ? 2 : 1; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* spans = reinterpret_cast<int*>(shared);
    const int64_t tile = grid.block / strips, begin = tile * groups * kRows;
    if (F::kSpans && p == 0) {
      for (int r = grid.thread; r < groups * kRows; r += kThreads)
        if (begin + r < rows.call.n) find_span(rows.call.in + (begin + r) * f.depth, spans + 2 * r);
      return;
    }
    const int group = grid.thread / lanes, lane = grid.thread % lanes;
    const int j = (int(grid.block - tile * strips) * lanes + lane) * 4;
    const int64_t first = begin + group * kRows;
    if (group >= groups || j >= f.width || first >= rows.call.n) return;
    const int count = int(smaller<int64_t>(kRows, rows.call.n - first));
    float sums[kRows][4];
    f.sum(*this, first, count, spans + 2 * group * kRows, j, sums);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) continue;
      f.finish(rows, first + r, j, sums[r]);
      rows.store(first + r, j, sums[r]);
    }
  }

  // Calls body(k, values of kRows rows, 4 of the matrix's line k) for k in [begin, end). Rows beyond the last are the
  // last again.
  template <class Body>
  EMBSTORE_HD void over(int64_t first, int count, int j, int begin, int end, Body body) const {
    const float* in = rows.call.in + first * f.depth;
    const float* line = f.matrix + int64_t(begin) * f.width + j;
    int k = begin;
    for (; k + 4 <= end; k += 4) {
      Bytes<16> values[kRows], weights[4];
#pragma unroll
      for (int r = 0; r < kRows; ++r) values[r] = four(in + (smaller(r, count - 1) * f.depth + k), in_align);
#pragma unroll
      for (int i = 0; i < 4; ++i, line += f.width) weights[i] = four(line, f.align);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float value[kRows], weight[4];
#pragma unroll
        for (int r = 0; r < kRows; ++r) value[r] = bits_float(values[r].words[i]);
#pragma unroll
        for (int c = 0; c < 4; ++c) weight[c] = bits_float(weights[i].words[c]);
        body(k + i, value, weight);
      }
    }
    for (; k < end; ++k, line += f.width) {
      float value[kRows], weight[4];
      const Bytes<16> weights = four(line, f.align);
#pragma unroll
      for (int r = 0; r < kRows; ++r) value[r] = read(in + (smaller(r, count - 1) * f.depth + k));
#pragma unroll
      for (int c = 0; c < 4; ++c) weight[c] = bits_float(weights.words[c]);
      body(k, value, weight);
    }
  }

 private:
  EMBSTORE_HD void find_span(const float* row, int* span) const {
    int from = 0, end = f.depth;
    while (from < end && read(row + from) == 0.0f) ++from;
    while (end > from && read(row + end - 1) == 0.0f) --end;
    span[0] = from, span[1] = end;
  }
  EMBSTORE_HD static Bytes<16> four(const float* at, int align) {
    return read_bytes<16>(reinterpret_cast<const uint8_t*>(at), align);
  }
};

// A map that is one task.
template <class F, template <class> class Task>
class TaskMap final : public Map {
 public:
  explicit TaskMap(const F& f) : f_(f) {}
  void run(const MapCall& call, const Target& target) const override { launch(Task<F>(f_, call), target); }

 private:
  F f_;
};

}  // namespace embstore::cuda
