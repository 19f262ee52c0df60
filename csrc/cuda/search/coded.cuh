// Scores of codes as they are, in integers: products of bytes, four at a time, with queries that were rounded to signed
// bytes; the sums and what becomes of them have the bits of csrc/search/_integer.h and _packed.h. As in scan.cuh a
// thread has two rows and sixteen queries at a time. A functor C of a method's codes, its blocks of columns each with a
// sum of its own, has
//   int dim, block;                           columns of a row, and of a block: a multiple of 16, or the whole row
//   Place place(int64_t id) const;            id in range
//   void codes(const Place&, int j, uint32_t (&w)[4]) const;
//       the 16 codes from column j on, a multiple of 16, as bytes; of columns beyond the row any
//   Step step(const Place&, int block) const; what a block's sum needs of the row
//   static float add(float total, const Step&, int sum, float query_sum);    the total with a block's sum
//   float finish(float total, const Place&, const QueryTerms&) const;        the product of row and query
#pragma once
#include "cuda/search/scan.cuh"

namespace embstore::cuda {

// Products of four unsigned bytes with four signed ones, added to a sum.
EMBSTORE_HD int add_products(uint32_t codes, uint32_t query, int sum) {
#if defined(__CUDA_ARCH__)
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(codes), "r"(query), "r"(sum));
  return sum;
#else
  for (int k = 0; k < 32; k += 8) sum += int(uint8_t(codes >> k)) * int(int8_t(query >> k));
  return sum;
#endif
}

// Four codes, one above the other, as a byte each.
template <int Bits>
EMBSTORE_HD uint32_t spread(uint32_t codes) {
  static_assert(Bits == 1 || Bits == 2 || Bits == 4 || Bits == 8);
  if constexpr (Bits == 8) return codes;
  if constexpr (Bits == 4) {
    codes = (codes | codes << 8) & 0x00ff00ffu;
    return (codes | codes << 4) & 0x0f0f0f0fu;
  }
  if constexpr (Bits == 2) {
    codes = (codes | codes << 12) & 0x000f000fu;
    return (codes | codes << 6) & 0x03030303u;
  }
  return (codes & 15) * 0x00204081u & 0x01010101u;
}

// 16 codes of Bits bits from a row.
template <int Bits>
EMBSTORE_HD void codes_of(const uint8_t* row, int j, int align, uint32_t (&w)[4]) {
  const Bytes<2 * Bits> raw = read_bytes<2 * Bits>(row + j * Bits / 8, align);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    constexpr uint32_t kMask = Bits == 8 ? ~0u : (1u << (4 * Bits % 32)) - 1;
    w[k] = spread<Bits>(raw.words[k * 4 * Bits / 32] >> (k * 4 * Bits % 32) & kMask);
  }
}

// A score from the product of a query and a row: as csrc/search/scan.cpp, of the norms of embstore/search/scan.py.
EMBSTORE_HD float adjusted(Metric metric, float product, float square) {
  if (metric == Metric::kIp) return product;
  if (metric == Metric::kL2) return product + square * -0.5f;
  const float length = root(square);
  return product * (length > 0.0f ? 1.0f / length : 0.0f);
}

template <class C>
struct CodedScanTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2, kRows = 2;
  C codes;
  SearchCall call;
  CodedQueries queries;
  int64_t first, stride, n, tiles;
  int words, blocks_of_row, groups;

  CodedScanTask(const C& of, const ScanCall& scan, const CodedQueries& given)
      : codes(of),
        call(*scan.search),
        queries(given),
        first(scan.first),
        stride(scan.stride),
        n(scan.n),
        words((of.dim + 15) / 16 * 4),
        blocks_of_row((of.dim + of.block - 1) / of.block),
        groups((call.count + kGroup - 1) / kGroup) {
    tiles = (n + kThreads * kRows - 1) / (kThreads * kRows);
  }
  // In a block's own memory, kGroup queries side by side: four values of each, then the sums of their blocks.
  int64_t shared_bytes() const { return int64_t(groups) * kGroup * (words + blocks_of_row) * 4; }
  int64_t blocks(const Target& target) const { return smaller(tiles, int64_t(target.processors) * kBlocks); }
  EMBSTORE_HD int phases(const Grid&) const { return 2; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* values = reinterpret_cast<uint32_t*>(shared);
    auto* sums = reinterpret_cast<float*>(values + int64_t(groups) * kGroup * words);
    if (p == 0) {
      for (int at = grid.thread; at < groups * kGroup * words; at += kThreads) {
        const int q = at / (words * kGroup) * kGroup + at % kGroup, w = at / kGroup % words;
        values[at] = q < call.count ? read(queries.words + int64_t(q) * words + w) : 0;
      }
      for (int at = grid.thread; at < groups * kGroup * blocks_of_row; at += kThreads) {
        const int q = at / (blocks_of_row * kGroup) * kGroup + at % kGroup, b = at / kGroup % blocks_of_row;
        sums[at] = q < call.count ? read(queries.sums + int64_t(q) * blocks_of_row + b) : 0.0f;
      }
      return;
    }
    for (int64_t tile = grid.block; tile < tiles; tile += grid.blocks) {
      const int64_t at = tile * kThreads * kRows + grid.thread;
      for (int group = 0; group < groups; ++group)
        score(at, group, values + group * kGroup * words, sums + group * kGroup * blocks_of_row);
    }
  }

 private:
  EMBSTORE_HD void score(int64_t at, int group, const uint32_t* values, const float* query_sums) const {
    using Place = decltype(codes.place(0));
    Place places[kRows];
    bool good[kRows];
    int64_t ids[kRows];
    float totals[kRows][kGroup];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t i = at + r * kThreads;
      ids[r] = first + i * stride;
      good[r] = i < n && (call.allowed == nullptr || read(call.allowed + ids[r]) != 0);
      places[r] = codes.place(good[r] ? ids[r] : first);
#pragma unroll
      for (int q = 0; q < kGroup; ++q) totals[r][q] = 0.0f;
    }
    for (int b = 0; b < blocks_of_row; ++b) {
      int sums[kRows][kGroup];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int q = 0; q < kGroup; ++q) sums[r][q] = 0;
      }
      const int end = smaller((b + 1) * codes.block, codes.dim);
      for (int j = b * codes.block; j < end; j += 16) add_columns(places, j, values + j / 4 * kGroup, sums);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const auto step = codes.step(places[r], b);
#pragma unroll
        for (int q = 0; q < kGroup; ++q)
          totals[r][q] = C::add(totals[r][q], step, sums[r][q], query_sums[b * kGroup + q]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!good[r]) continue;
      const float square = queries.squares == nullptr ? 0.0f : read(queries.squares + ids[r]);
#pragma unroll
      for (int q = 0; q < kGroup; ++q) {
        const int query = group * kGroup + q;
        if (query >= call.count) continue;
        const QueryTerms terms = queries.terms[query];
        const float product = codes.finish(totals[r][q], places[r], terms) + terms.constant;
        // Adding 0 makes -0 equal to it, so that ids order them.
        offer(call, query, ids[r], adjusted(call.metric, product, square) + 0.0f);
      }
    }
  }

  EMBSTORE_HD void add_columns(const decltype(codes.place(0)) (&places)[kRows], int j, const uint32_t* values,
                               int (&sums)[kRows][kGroup]) const {
    uint32_t w[kRows][4];
#pragma unroll
    for (int r = 0; r < kRows; ++r) codes.codes(places[r], j, w[r]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int q = 0; q < kGroup; q += 4) {
        uint32_t four[4];
        read_four(values + k * kGroup + q, four);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[r][q + i] = add_products(w[r][k], four[i], sums[r][q + i]);
        }
      }
    }
  }
};

// A kernel that also scores codes in integers.
template <class Base, class C>
class CodedKernel final : public Base {
 public:
  template <class F>
  CodedKernel(const F& f, const C& codes, int64_t num_embeddings) : Base(f, num_embeddings), codes_(codes) {}
  int coded_block() const override { return codes_.block; }
  void scan_coded(const ScanCall& call, const CodedQueries& queries, const Target& target) const override {
    launch(CodedScanTask<C>(codes_, call, queries), target);
  }

 private:
  C codes_;
};

}  // namespace embstore::cuda
