// The scorer of every method without one of its own: a tile of rows is decoded once and multiplied with all queries.
#include <vector>

#include "core/search.h"
#include "search/_dot.h"

namespace embstore::EMBSTORE_ISA {
namespace {

constexpr int kRows = 4, kQueries = 4;  // dot products at a time: each value loaded serves four

struct Floats32 final : Scorer::Prepared {
  const float* queries;
  int64_t count;
  Floats32(const float* q, int64_t n) : queries(q), count(n) {}
};

template <int R, int Q>
inline void dots(const float* rows, const float* queries, int64_t dim, float* tile) {
  int64_t j = 0;
  float totals[Q][R] = {};
#if !defined(EMBSTORE_ISA_REF)
  Floats sums[Q][R];
  for (int q = 0; q < Q; ++q)
    for (int r = 0; r < R; ++r) sums[q][r] = set1(0.0f);
  for (; j + Width <= dim; j += Width) {
    Floats row[R];
    for (int r = 0; r < R; ++r) row[r] = load(rows + r * dim + j);
    for (int q = 0; q < Q; ++q) {
      const Floats query = load(queries + q * dim + j);
      for (int r = 0; r < R; ++r) sums[q][r] = multiply_add(query, row[r], sums[q][r]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int r = 0; r < R; ++r) totals[q][r] = total(sums[q][r]);
#endif
  for (; j < dim; ++j)
    for (int q = 0; q < Q; ++q)
      for (int r = 0; r < R; ++r) totals[q][r] += queries[q * dim + j] * rows[r * dim + j];
  for (int q = 0; q < Q; ++q)
    for (int r = 0; r < R; ++r) tile[q * kTileRows + r] = totals[q][r];
}

template <int Q>
inline void against_rows(const float* rows, int64_t count, const float* queries, int64_t dim, float* tile) {
  int64_t r = 0;
  for (; r + kRows <= count; r += kRows) dots<kRows, Q>(rows + r * dim, queries, dim, tile + r);
  for (; r < count; ++r) dots<1, Q>(rows + r * dim, queries, dim, tile + r);
}

class DecodeScorer final : public Scorer {
 public:
  DecodeScorer(const Kernel& kernel, int64_t dim) : kernel_(kernel), dim_(dim) {}

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    return std::make_unique<Floats32>(queries, count);
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    const auto& given = static_cast<const Floats32&>(prepared);
    thread_local std::vector<float> rows;
    // As many rows as stay in the second-level cache beside the queries.
    const int64_t block = std::max<int64_t>(kRows, std::min<int64_t>(count, (1 << 16) / dim_));
    rows.resize(size_t(block * dim_));
    int64_t ids[kTileRows];
    for (int64_t at = 0; at < count; at += block) {
      const int64_t n = std::min(block, count - at);
      for (int64_t i = 0; i < n; ++i) ids[i] = first + at + i;
      kernel_.lookup(ids, n, rows.data(), false);
      int64_t q = 0;
      for (; q + kQueries <= given.count; q += kQueries)
        against_rows<kQueries>(rows.data(), n, given.queries + q * dim_, dim_, tile + q * kTileRows + at);
      for (; q < given.count; ++q)
        against_rows<1>(rows.data(), n, given.queries + q * dim_, dim_, tile + q * kTileRows + at);
    }
  }

 private:
  const Kernel& kernel_;
  int64_t dim_;
};

const bool registered = register_decode_scorer(EMBSTORE_STRING(EMBSTORE_ISA), [](const Kernel& kernel, int64_t dim) {
  return std::unique_ptr<Scorer>(new DecodeScorer(kernel, dim));
});

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
