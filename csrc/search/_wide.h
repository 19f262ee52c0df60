// The scorer of codes of any width: of each table and code the entries of 32 queries lie side by side as 16-bit
// integers, so that a code of a row is one load and one addition for all of them. Tables of a group fit the
// second-level cache. A few queries are summed one by one, from float tables that fit the first.
#pragma once
#include "search/_tables.h"

namespace embstore::EMBSTORE_ISA {

template <class Codes>
class WideScorer final : public TableScorer<Codes> {
  using Base = TableScorer<Codes>;
  using Base::m_, Base::count_, Base::stride_, Base::packed_, Base::rows_;
  using typename Scorer::Prepared;

 public:
  using Base::Base;

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    auto made = std::make_unique<Integers>();
    const int64_t size = m_ * count_;
    made->grouped = count % kGroup <= kFew ? count / kGroup * kGroup : count;
    made->integers.resize(size_t((made->grouped + kGroup - 1) / kGroup * size * kGroup));
    this->fill(*made, queries, count, int(65535 / m_), [&](int64_t q, const uint16_t* integers) {
      if (q >= made->grouped) return;
      uint16_t* to = made->integers.data() + q / kGroup * size * kGroup + q % kGroup;
      for (int64_t i = 0; i < size; ++i) to[i * kGroup] = integers[i];
    });
    return made;
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    const auto& given = static_cast<const Integers&>(prepared);
    const uint8_t* rows = rows_.place(first)[0];
    for (int64_t q = 0; q < given.grouped; q += kGroup) group(given, q, rows, count, tile);
    for (int64_t q = given.grouped; q < given.queries; ++q) {
      const float* table = given.of(q, m_ * stride_);
      int64_t r = 0;
      for (; r + kTogether <= count; r += kTogether) few<kTogether>(table, rows, r, tile + q * kTileRows);
      for (; r < count; ++r) few<1>(table, rows, r, tile + q * kTileRows);
    }
  }

 private:
  static constexpr int kGroup = 32, kFew = 3, kTogether = 4;
  typedef uint16_t Sums __attribute__((vector_size(2 * kGroup)));

  struct Integers final : Base::Products {
    std::vector<uint16_t> integers;  // groups x m x count x kGroup
    int64_t grouped = 0;             // queries that have integers
  };

  void group(const Integers& given, int64_t q, const uint8_t* rows, int64_t count, float* tile) const noexcept {
    const uint16_t* table = given.integers.data() + q * m_ * count_;
    const int64_t used = std::min<int64_t>(kGroup, given.grouped - q), row_bytes = rows_.row_bytes[0];
    for (int64_t r = 0; r < count; ++r) {
      const uint8_t* row = rows + r * row_bytes;
      Sums even = {}, odd = {};
      int64_t s = 0;
      for (; s + 2 <= m_; s += 2) {
        even += entries(table, s, row);
        odd += entries(table, s + 1, row);
      }
      if (s < m_) even += entries(table, s, row);
      even += odd;
      uint16_t sums[kGroup];
      std::memcpy(sums, &even, sizeof sums);
      for (int64_t i = 0; i < used; ++i) {
        const auto [step, offset] = given.rounded[size_t(q + i)];
        tile[(q + i) * kTileRows + r] = float(sums[i]) * step + offset;
      }
    }
  }

  Sums entries(const uint16_t* table, int64_t s, const uint8_t* row) const {
    Sums v;
    std::memcpy(&v, table + (s * count_ + int64_t(packed_.at(row, s))) * kGroup, sizeof v);
    return v;
  }

  template <int N>
  void few(const float* table, const uint8_t* rows, int64_t r, float* scores) const noexcept {
    float sums[N] = {};
    const int64_t row_bytes = rows_.row_bytes[0];
    for (int64_t s = 0; s < m_; ++s)
      for (int k = 0; k < N; ++k) sums[k] += table[s * stride_ + packed_.at(rows + (r + k) * row_bytes, s)];
    for (int k = 0; k < N; ++k) scores[r + k] = sums[k];
  }
};

}  // namespace embstore::EMBSTORE_ISA
