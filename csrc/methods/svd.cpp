#include <cmath>
#include <vector>

#include "core/transform.h"
#include "methods/_svd.h"
#include "skeletons/multiply.h"

namespace embstore::EMBSTORE_ISA {
namespace {

// Factors to rows. With groups most of a factor is zero: only the span that is not is multiplied.
class Basis final : public Transform {
 public:
  Basis(const float* basis, int64_t width, int64_t dim, bool sparse)
      : basis_(basis), width_(width), dim_(dim), sparse_(sparse) {}

  void undo(float* in, int64_t n, const float*, float* out) const noexcept override {
    if (!sparse_) return multiply(in, n, width_, basis_, dim_, out);
    for (int64_t r = 0; r < n; ++r) {
      const float* code = in + r * width_;
      int64_t first = 0, last = width_;
      while (first < last && code[first] == 0.0f) ++first;
      while (last > first && code[last - 1] == 0.0f) --last;
      if (first == last)
        std::memset(out + r * dim_, 0, size_t(dim_) * sizeof(float));
      else
        multiply(code + first, 1, last - first, basis_ + first * dim_, dim_, out + r * dim_);
    }
  }

 private:
  const float* basis_;
  int64_t width_, dim_;
  bool sparse_;
};

std::unique_ptr<Kernel> svd_kernel(const TableView& table) {
  const int64_t width = factor_width(table);
  auto kernel = std::make_unique<TransformedKernel>(factor_kernel(table), width);
  kernel->append(std::make_unique<Basis>(basis_of(table, width), width, table.embedding_dim, grouped(table)),
                 table.embedding_dim);
  return kernel;
}

// Projects rows in blocks that stay in the first-level cache, and has the factors' own method encode them.
void svd_encode(const EncodeJob& job, int64_t first, int64_t last) {
  const int64_t dim = job.embedding_dim, rank = job.params.integer("rank", 1);
  const auto* projection = reinterpret_cast<const float*>(job.shared.at("_projection").data);
  const EncodeFunction encode = find_method(factor_of(job.params)).encode;
  const int64_t block = rank < 4096 ? 4096 / rank : 1;
  std::vector<float> factors(size_t(block * rank));
  EncodeJob inner;
  inner.embedding_dim = rank;
  inner.params = factor_params(job.params);
  inner.row_bytes = job.row_bytes;
  inner.rows = factors.data();
  for (int64_t at = first; at < last; at += block) {
    const int64_t n = last - at < block ? last - at : block;
    const float* rows = job.rows + at * dim;
    multiply(rows, n, dim, projection, rank, factors.data());
    for (int64_t r = 0; r < n; ++r) {
      float taint = 0.0f;
      for (int64_t j = 0; j < dim; ++j) taint += rows[r * dim + j] * 0.0f;
      if (taint != 0.0f)
        for (int64_t k = 0; k < rank; ++k) factors[size_t(r * rank + k)] = __builtin_nanf("");
    }
    for (const auto& [name, out] : job.out) inner.out[name] = out + at * job.row_bytes.at(name);
    encode(inner, 0, n);
  }
}

}  // namespace
EMBSTORE_REGISTER(svd, svd_kernel, svd_encode);
}  // namespace embstore::EMBSTORE_ISA
