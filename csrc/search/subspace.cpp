// Inner products with rows of a subspace table: those with the entries of each part, made once, then added up.
#include <vector>

#include "core/search.h"
#include "methods/_subspace.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Products final : Scorer::Prepared {
  std::vector<float> values;  // query by query: part by part, an entry each
  int64_t count = 0;
};

template <class Choice>
class SubspaceScorer final : public Scorer {
 public:
  explicit SubspaceScorer(const TableView& table) : rows_(table), dim_(table.embedding_dim) {
    for (const auto& part : rows_.parts) {
      firsts_.push_back(entries_);
      entries_ += part.count;
    }
  }

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    auto made = std::make_unique<Products>();
    made->count = count;
    made->values.resize(size_t(count * entries_));
    for (int64_t q = 0; q < count; ++q)
      for (size_t p = 0; p < rows_.parts.size(); ++p) {
        const auto& part = rows_.parts[p];
        const float* query = queries + q * dim_ + part.begin;
        float* out = made->values.data() + q * entries_ + firsts_[p];
        for (int64_t k = 0; k < part.count; ++k) {
          float sum = 0.0f;
          for (int64_t j = 0; j < part.end - part.begin; ++j) sum += query[j] * part.table[k * part.stride + j];
          out[k] = sum;
        }
      }
    return made;
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    const auto& given = static_cast<const Products&>(prepared);
    thread_local std::vector<int64_t> places;  // of each row's entries among all
    const size_t parts = rows_.parts.size();
    places.resize(size_t(count) * parts);
    for (int64_t r = 0; r < count; ++r)
      rows_.entries(rows_.arrays.place(first + r),
                    [&](size_t p, int64_t k) { places[size_t(r) * parts + p] = firsts_[p] + k; });
    for (int64_t q = 0; q < given.count; ++q) {
      const float* products = given.values.data() + q * entries_;
      for (int64_t r = 0; r < count; ++r) {
        float sum = 0.0f;
        for (size_t p = 0; p < parts; ++p) sum += products[places[size_t(r) * parts + p]];
        tile[q * kTileRows + r] = sum;
      }
    }
  }

 private:
  Choice rows_;
  int64_t dim_;
  std::vector<int64_t> firsts_;
  int64_t entries_ = 0;
};

EMBSTORE_REGISTER_SCORER(subspace, [](const TableView& table) -> std::unique_ptr<Scorer> {
  if (by_clusters(table)) return std::make_unique<SubspaceScorer<Clusters>>(table);
  return std::make_unique<SubspaceScorer<Digits>>(table);
});

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
