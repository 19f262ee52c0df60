// Inner products with rows of an svd table are those with factors, of queries multiplied by the basis once.
#include <vector>

#include "methods/_svd.h"
#include "search/_dot.h"

namespace embstore::EMBSTORE_ISA {
namespace {

class SvdScorer final : public Scorer {
 public:
  explicit SvdScorer(const TableView& table)
      : dim_(table.embedding_dim), width_(factor_width(table)), basis_(basis_of(table, width_)) {
    if (const ScorerFactory own = grouped(table) ? nullptr : find_scorer(factor_of(table.params))) {
      factors_ = factor_table(table);
      inner_ = own(factors_);
    }
    if (inner_ == nullptr) {
      kernel_ = factor_kernel(table);
      inner_ = find_decode_scorer()(*kernel_, width_);
    }
  }

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    auto made = std::make_unique<Projected>();
    made->queries.resize(size_t(count * width_));
    for (int64_t q = 0; q < count; ++q)
      for (int64_t k = 0; k < width_; ++k)
        made->queries[size_t(q * width_ + k)] = dot(queries + q * dim_, basis_ + k * dim_);
    made->inner = inner_->prepare(made->queries.data(), count);
    return made;
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    inner_->score(*static_cast<const Projected&>(prepared).inner, first, count, tile);
  }

 private:
  struct Projected final : Prepared {
    std::vector<float> queries;
    std::unique_ptr<Prepared> inner;
  };

  float dot(const float* a, const float* b) const {
    int64_t j = 0;
    float sum = 0.0f;
#if !defined(EMBSTORE_ISA_REF)
    Floats sums = set1(0.0f);
    for (; j + Width <= dim_; j += Width) sums = multiply_add(load(a + j), load(b + j), sums);
    sum = total(sums);
#endif
    for (; j < dim_; ++j) sum += a[j] * b[j];
    return sum;
  }

  int64_t dim_, width_;
  const float* basis_;
  TableView factors_;
  std::unique_ptr<Kernel> kernel_;
  std::unique_ptr<Scorer> inner_;
};

EMBSTORE_REGISTER_SCORER(svd, [](const TableView& table) -> std::unique_ptr<Scorer> {
  return std::make_unique<SvdScorer>(table);
});

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
