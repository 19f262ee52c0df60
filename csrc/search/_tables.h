// Scorers of product and residual codes: the product of a query with a row is a sum of entries of the query's tables,
// one of each.
//
// Tables are rounded to integers, whose sums are exact and the same on every instruction set. What rounding may have
// taken is added again, so that a score is an upper bound; rows that it lets through are summed from the tables as they
// were.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "core/search.h"
#include "methods/_codes.h"
#include "methods/_lanes.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

// An upper bound of a score is sum * step + offset, of the integers of its codes.
struct Rounded {
  float step, offset;
};

// Integers from 0 to `top` of `tables` tables of `count` entries, each counted from the least of its table.
inline Rounded round_tables(const float* products, int64_t tables, int64_t count, int64_t stride, int top,
                            uint16_t* integers) {
  float range = 0.0f, magnitude = 0.0f;
  for (int64_t s = 0; s < tables; ++s) {
    const auto [low, high] = std::minmax_element(products + s * stride, products + s * stride + count);
    range = std::max(range, *high - *low);
    magnitude += std::max(std::fabs(*low), std::fabs(*high));
  }
  // Sums that overflow bound nothing: every row is let through.
  if (!(magnitude <= std::numeric_limits<float>::max()) || !(range <= std::numeric_limits<float>::max())) {
    std::fill(integers, integers + tables * count, uint16_t(0));
    return {0.0f, std::numeric_limits<float>::infinity()};
  }
  // Of tables too small for an inverse nothing is kept but their bounds.
  const float step = range / float(top), inverse = step > 0x1p-120f ? 1.0f / step : 0.0f;
  double offset = 0.0;
  for (int64_t s = 0; s < tables; ++s, products += stride, integers += count) {
    const float low = *std::min_element(products, products + count);
    float lost = 0.0f;
    for (int64_t c = 0; c < count; ++c) {
      const int integer = std::min(top, int((products[c] - low) * inverse + 0.5f));
      integers[c] = uint16_t(integer);
      lost = std::max(lost, products[c] - (low + float(integer) * step));
    }
    offset += double(low) + double(lost);
  }
  // The float32 rounding of the integers' sum, of the tables' own sum, and of what is above, also of subnormals.
  offset += double(magnitude) * double(tables + 8) * 0x1p-23 + 0x1p-145;
  return {step, float(offset)};
}

template <class Codes>
class TableScorer : public Scorer {
 public:
  // additive: a table's products are with whole codewords (rq), else with centroids of a slice (pq).
  TableScorer(const TableView& t, bool additive)
      : rows_(t, {"codes"}),
        dim_(t.embedding_dim),
        m_(t.params.integer("m", 1)),
        count_(int64_t(1) << t.params.integer("bits", 8)),
        stride_((count_ + kLanes - 1) / kLanes * kLanes),
        packed_(int(t.params.integer("bits", 8)), rows_.row_bytes[0]),
        additive_(additive) {
    auto at = t.shared.find("columns");
    if (at == t.shared.end() || at->second.nbytes != 4 * stride_ * dim_ * (additive ? m_ : 1))
      throw std::invalid_argument("the centroids of the codes are missing or of the wrong size");
    columns_ = reinterpret_cast<const float*>(at->second.data);
  }

  bool bounds() const noexcept override { return true; }
  float refine(const Prepared& prepared, int64_t q, int64_t row) const noexcept override {
    const float* table = static_cast<const Products&>(prepared).of(q, m_ * stride_);
    const uint8_t* codes = rows_.place(row)[0];
    float sum = 0.0f;
    for (int64_t s = 0; s < m_; ++s) sum += table[s * stride_ + packed_.at(codes, s)];
    return sum;
  }

 protected:
  struct Products : Prepared {
    int64_t queries = 0;
    std::vector<float> products;  // queries x m x stride
    std::vector<Rounded> rounded;
    const float* of(int64_t q, int64_t size) const { return products.data() + q * size; }
  };

  // Fills what is common; rounding(q, integers): m x count integers of at most `top`.
  template <class Take>
  void fill(Products& made, const float* queries, int64_t count, int top, Take take) const {
    made.queries = count;
    made.products.resize(size_t(count * m_ * stride_));
    std::vector<uint16_t> integers(size_t(m_ * count_));
    for (int64_t q = 0; q < count; ++q) {
      float* products = made.products.data() + q * m_ * stride_;
      multiply(queries + q * dim_, products);
      made.rounded.push_back(round_tables(products, m_, count_, stride_, top, integers.data()));
      take(q, integers.data());
    }
  }

  RowArrays<1> rows_;
  int64_t dim_, m_, count_, stride_;
  Codes packed_;

 private:
  // Added in the order of columns, centroids as lanes: the same bits whatever the lanes.
  void multiply(const float* query, float* products) const {
    for (int64_t s = 0; s < m_; ++s, products += stride_) {
      const int64_t first = additive_ ? 0 : s * dim_ / m_, last = additive_ ? dim_ : (s + 1) * dim_ / m_;
      const float* columns = columns_ + (additive_ ? s * dim_ : 0) * stride_;
      for (int64_t c = 0; c < stride_; c += kLanes) {
        Lanes sums = {};
        for (int64_t j = first; j < last; ++j) sums += query[j] * lanes_at(columns + j * stride_ + c);
        put_lanes(products + c, sums);
      }
    }
  }

  const float* columns_;
  bool additive_;
};

}  // namespace embstore::EMBSTORE_ISA
