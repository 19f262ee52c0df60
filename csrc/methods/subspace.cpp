#include "methods/_subspace.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <class Choice>
struct Subspace : Choice, NoColumns {
  int64_t dim, line_bytes = 128;

  explicit Subspace(const TableView& t) : Choice(t), dim(t.embedding_dim) {}

  template <class Sink>
  void decode(const typename Choice::Place& place, Sink& sink) const {
    this->entries(place, [&](size_t p, int64_t k) {
      const Part& part = this->parts[p];
      const float* entry = part.table + k * part.stride - part.begin;
      int64_t j = part.begin;
#if !defined(EMBSTORE_ISA_REF)
      j = over_vectors<Sink, 1>(j, part.end, [&](int64_t at) { sink.many(at, load(entry + at)); });
#endif
      for (; j < part.end; ++j) sink.one(j, entry[j]);
    });
  }
};

std::unique_ptr<Kernel> subspace_kernel(const TableView& t) {
  if (by_clusters(t)) return std::make_unique<RowKernel<Subspace<Clusters>>>(Subspace<Clusters>(t));
  return std::make_unique<RowKernel<Subspace<Digits>>>(Subspace<Digits>(t));
}

}  // namespace
EMBSTORE_REGISTER(subspace, subspace_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
