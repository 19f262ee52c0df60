// Scores of rows against all queries of a batch. A thread has two rows; sixteen queries at a time are held in
// registers, and a value of a query that lies in a block's own memory serves both rows of all threads.
#pragma once
#include "cuda/search/search.h"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {

inline constexpr int kGroup = 16;  // queries scored at a time

EMBSTORE_HD float root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

// Four floats of a block's own memory, at a multiple of 16 bytes: one load.
EMBSTORE_HD void read_four(const float* at, float (&four)[4]) {
#if defined(__CUDA_ARCH__)
  const float4 v = *reinterpret_cast<const float4*>(at);
  four[0] = v.x, four[1] = v.y, four[2] = v.z, four[3] = v.w;
#else
  std::memcpy(four, at, 16);
#endif
}
EMBSTORE_HD void read_four(const uint32_t* at, uint32_t (&four)[4]) {
#if defined(__CUDA_ARCH__)
  const uint4 v = *reinterpret_cast<const uint4*>(at);
  four[0] = v.x, four[1] = v.y, four[2] = v.z, four[3] = v.w;
#else
  std::memcpy(four, at, 16);
#endif
}

EMBSTORE_HD bool finite(float x) { return x - x == 0.0f; }

EMBSTORE_HD Hit hit_of(float score, int64_t id) {
#if defined(__CUDA_ARCH__)
  const uint32_t bits = __float_as_uint(score);
#else
  const uint32_t bits = float_to_bits(score);
#endif
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return Hit(ordered) << 32 | (0xffffffffu - uint32_t(id));
}
EMBSTORE_HD float score_of(Hit hit) {
  const uint32_t ordered = uint32_t(hit >> 32);
  return bits_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}
EMBSTORE_HD int64_t id_of(Hit hit) { return 0xffffffffu - uint32_t(hit); }

// To the list of a query, unless its bound keeps it out.
EMBSTORE_HD void offer(const SearchCall& call, int query, int64_t id, float score) {
  const Hit hit = hit_of(score, id);
  if (!finite(score) || hit < call.room.floors[query]) return;
#if defined(__CUDA_ARCH__)
  const uint32_t place = atomicAdd(call.room.counts + query, 1u);
#else
  const uint32_t place = call.room.counts[query]++;
#endif
  if (place < call.room.capacity) call.room.lists[query * call.room.capacity + place] = hit;
}

// Larger is nearer; a zero row or query has cosine 0.
EMBSTORE_HD float final_score(Metric metric, float sum, float length, float query_length) {
  if (metric == Metric::kL2) return -sum;
  if (metric == Metric::kIp) return sum;
  const float sizes = length * query_length;
  return sizes > 0.0f ? sum / sizes : sizes == 0.0f ? 0.0f : sizes;
}

// F: a decode functor of row_decode.cuh. Places: of row i of the call, that of id first + i * stride, or of i.
template <class F>
struct ScanTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2, kRows = 2;
  static constexpr int kColumns = F::kColumns > 8 ? 8 : F::kColumns;
  F f;
  SearchCall call;
  int64_t first, stride, n, tiles;
  bool by_id;
  int padded;  // columns of a query, a multiple of 16
  int groups;

  ScanTask(const F& functor, const ScanCall& scan, bool places_by_id)
      : f(functor),
        call(*scan.search),
        first(scan.first),
        stride(scan.stride),
        n(scan.n),
        by_id(places_by_id),
        padded((functor.dim + 15) / 16 * 16),
        groups((call.count + kGroup - 1) / kGroup) {
    tiles = (n + kThreads * kRows - 1) / (kThreads * kRows);
  }
  // In a block's own memory: values of queries, kGroup of one column side by side; norms; the table of the functor.
  int64_t query_bytes() const { return int64_t(groups) * kGroup * (padded + 1) * 4; }
  int64_t shared_bytes() const { return query_bytes() + f.table_bytes(); }
  int64_t blocks(const Target& target) const { return smaller(tiles, int64_t(target.processors) * kBlocks); }
  EMBSTORE_HD int phases(const Grid&) const { return 3; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* values = reinterpret_cast<float*>(shared);
    float* norms = values + int64_t(groups) * kGroup * padded;
    uint8_t* table = reinterpret_cast<uint8_t*>(norms + groups * kGroup);
    if (p == 0) {
      f.fill(table, grid.thread, kThreads);
      for (int at = grid.thread; at < groups * kGroup * padded; at += kThreads) {
        const int q = at / (padded * kGroup) * kGroup + at % kGroup, j = at / kGroup % padded;
        values[at] = q < call.count && j < f.dim ? read(call.queries + int64_t(q) * f.dim + j) : 0.0f;
      }
      return;
    }
    if (p == 1) {
      for (int q = grid.thread; q < groups * kGroup; q += kThreads) {
        const float* query = values + int64_t(q / kGroup) * padded * kGroup + q % kGroup;
        float sum = 0.0f;
        for (int j = 0; j < f.dim; ++j) sum = mul_add(query[j * kGroup], query[j * kGroup], sum);
        norms[q] = root(sum);
      }
      return;
    }
    F g = f;
    g.bind(table);
    for (int64_t tile = grid.block; tile < tiles; tile += grid.blocks) {
      const int64_t at = tile * kThreads * kRows + grid.thread;
      for (int group = 0; group < groups; ++group) score(g, at, group, values, norms);
    }
  }

 private:
  EMBSTORE_HD void score(const F& g, int64_t at, int group, const float* values, const float* norms) const {
    using Place = decltype(g.place(0));
    Place places[kRows];
    bool good[kRows];
    int64_t ids[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t i = at + r * kThreads;
      ids[r] = first + i * stride;
      good[r] = i < n && (call.allowed == nullptr || read(call.allowed + ids[r]) != 0);
      // What is not wanted is scored as the first row and dropped: lanes of a warp stay together.
      places[r] = g.place(by_id ? (good[r] ? ids[r] : first) : (good[r] ? i : 0));
    }
    float sums[kRows][kGroup], squares[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      squares[r] = 0.0f;
#pragma unroll
      for (int q = 0; q < kGroup; ++q) sums[r][q] = 0.0f;
    }
    const float* queries = values + int64_t(group) * padded * kGroup;
    if (call.metric == Metric::kL2) {
      for (int j = 0; j < g.dim; j += kColumns) add_columns<true>(g, places, j, queries, sums, squares);
    } else {
      for (int j = 0; j < g.dim; j += kColumns) add_columns<false>(g, places, j, queries, sums, squares);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!good[r]) continue;
      const float length = root(squares[r]);
#pragma unroll
      for (int q = 0; q < kGroup; ++q) {
        const int query = group * kGroup + q;
        if (query >= call.count) continue;
        offer(call, query, ids[r], final_score(call.metric, sums[r][q], length, norms[query]));
      }
    }
  }

  template <bool Distances>
  EMBSTORE_HD void add_columns(const F& g, const decltype(g.place(0)) (&places)[kRows], int j, const float* queries,
                               float (&sums)[kRows][kGroup], float (&squares)[kRows]) const {
    float v[kRows][kColumns];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const auto raw = g.template fetch<kColumns>(places[r], j);
      g.template decode<kColumns>(raw, places[r], j, v[r]);
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (j + k >= g.dim) break;
      const float* column = queries + (j + k) * kGroup;
#pragma unroll
      for (int r = 0; r < kRows; ++r) squares[r] = mul_add(v[r][k], v[r][k], squares[r]);
#pragma unroll
      for (int q = 0; q < kGroup; q += 4) {
        float four[4];
        read_four(column + q, four);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& sum = sums[r][q + i];
            const float away = v[r][k] - four[i];
            sum = Distances ? mul_add(away, away, sum) : mul_add(v[r][k], four[i], sum);
          }
        }
      }
    }
  }
};

// A RowKernel that scores rows from their codes.
template <class F>
class ScanKernel : public RowKernel<F> {
 public:
  using RowKernel<F>::RowKernel;
  bool scan(const ScanCall& call, const Target& target) const override {
    launch(ScanTask<F>(this->f_, call, true), target);
    return true;
  }
};

template <class F>
std::unique_ptr<Kernel> scan_kernel(const Table& table) {
  return std::make_unique<ScanKernel<F>>(F(table), table.num_embeddings);
}

}  // namespace embstore::cuda
