// Inner products by tables: of each slice and centroid the products with 32 queries lie side by side as 16-bit
// integers, so that a code of a row is one load and one addition for 32 queries. Tables of a group fit the second-level
// cache.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "core/search.h"
#include "methods/_codes.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

constexpr int kGroup = 32;
typedef int16_t Sums __attribute__((vector_size(2 * kGroup)));

struct Tables final : Scorer::Prepared {
  int64_t queries = 0;
  std::vector<int16_t> products;  // groups x m x centroids x kGroup
  std::vector<float> steps;       // what one unit is worth, for each query
};

template <class Codes>
class PqScorer final : public Scorer {
 public:
  explicit PqScorer(const TableView& t)
      : codes_(t, {"codes"}),
        dim_(t.embedding_dim),
        m_(t.params.integer("m", 1)),
        count_(int64_t(1) << t.params.integer("bits", 8)),
        packed_(int(t.params.integer("bits", 8)), codes_.row_bytes[0]) {
    auto at = t.shared.find("tables");
    if (at == t.shared.end() || at->second.nbytes != 4 * count_ * dim_)
      throw std::invalid_argument("the centroids of pq are missing or of the wrong size");
    centroids_ = reinterpret_cast<const float*>(at->second.data);
  }

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    auto made = std::make_unique<Tables>();
    made->queries = count;
    const int64_t groups = (count + kGroup - 1) / kGroup, size = m_ * count_;
    made->products.assign(size_t(groups * size * kGroup), 0);
    made->steps.resize(size_t(count));
    std::vector<float> products(static_cast<size_t>(size));
    for (int64_t q = 0; q < count; ++q) {
      // The sum over slices of the largest magnitudes bounds every score: it becomes the largest 16-bit integer, less
      // half a unit a slice for rounding.
      float bound = 0.0f;
      for (int64_t s = 0; s < m_; ++s) {
        const int64_t first = s * dim_ / m_, width = (s + 1) * dim_ / m_ - first;
        float largest = 0.0f;
        for (int64_t c = 0; c < count_; ++c) {
          const float* centroid = centroids_ + first * count_ + c * width;
          float product = 0.0f;
          for (int64_t j = 0; j < width; ++j) product += queries[q * dim_ + first + j] * centroid[j];
          products[size_t(s * count_ + c)] = product;
          largest = std::max(largest, std::fabs(product));
        }
        bound += largest;
      }
      const float room = float(std::max<int64_t>(1, 32767 - (m_ + 1) / 2 - 1));
      const float unit = bound > 0.0f ? room / bound : 0.0f;
      made->steps[size_t(q)] = bound > 0.0f ? bound / room : 0.0f;
      int16_t* to = made->products.data() + (q / kGroup) * size * kGroup + q % kGroup;
      for (int64_t i = 0; i < size; ++i) to[i * kGroup] = int16_t(std::lrintf(products[size_t(i)] * unit));
    }
    return made;
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    const auto& given = static_cast<const Tables&>(prepared);
    const int64_t size = m_ * count_ * kGroup;
    for (int64_t q = 0; q < given.queries; q += kGroup) {
      const int16_t* table = given.products.data() + q / kGroup * size;
      const int64_t used = std::min<int64_t>(kGroup, given.queries - q);
      for (int64_t r = 0; r < count; ++r) {
        const uint8_t* row = codes_.place(first + r)[0];
        Sums even = {}, odd = {};
        int64_t s = 0;
        for (; s + 2 <= m_; s += 2) {
          even += at(table, s, row);
          odd += at(table, s + 1, row);
        }
        if (s < m_) even += at(table, s, row);
        even += odd;
        int16_t sums[kGroup];
        std::memcpy(sums, &even, sizeof sums);
        for (int64_t i = 0; i < used; ++i) tile[(q + i) * kTileRows + r] = float(sums[i]) * given.steps[size_t(q + i)];
      }
    }
  }

 private:
  Sums at(const int16_t* table, int64_t s, const uint8_t* row) const {
    Sums v;
    std::memcpy(&v, table + (s * count_ + int64_t(packed_.at(row, s))) * kGroup, sizeof v);
    return v;
  }

  RowArrays<1> codes_;
  int64_t dim_, m_, count_;
  Codes packed_;
  const float* centroids_;
};

template <class Codes>
std::unique_ptr<Scorer> made(const TableView& t) {
  return std::make_unique<PqScorer<Codes>>(t);
}

EMBSTORE_REGISTER_SCORER(pq, [](const TableView& t) -> std::unique_ptr<Scorer> {
  const int64_t bits = t.params.integer("bits", 8);
  return bits == 8 ? made<ByteCodes>(t) : bits == 4 ? made<NibbleCodes>(t) : made<PackedCodes>(t);
});

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
