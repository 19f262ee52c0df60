// float32, float16, bfloat16: one array `values`, a value per element.
#pragma once
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

template <class T>
struct FloatDecode {
  Rows values;
  int64_t dim;
  int64_t line_bytes;

  explicit FloatDecode(const TableView& t) : values(t, "values"), dim(t.embedding_dim), line_bytes(values.row_bytes) {}
  void prefetch(int64_t id) const { values.prefetch_row(id); }
  bool one_block() const { return true; }
  template <int N = 0, class Sink>
  void decode(int64_t id, Sink& sink) const {
    const auto* row = reinterpret_cast<const typename T::Stored*>(values[id]);
    const int64_t end = N > 0 ? N * Width : dim;
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
#pragma GCC unroll 16
    for (; j + Width <= end; j += Width) sink.many(j, T::many(row + j));
#endif
    for (; j < end; ++j) sink.one(j, T::one(row[j]));
  }
};

template <class T>
std::unique_ptr<Kernel> float_kernel(const TableView& table) {
  return std::make_unique<RowKernel<FloatDecode<T>>>(FloatDecode<T>(table));
}

template <class T>
void float_encode(const EncodeJob& job, int64_t first, int64_t last) {
  auto* out = reinterpret_cast<typename T::Stored*>(job.out.at("values"));
  for (int64_t i = first * job.embedding_dim; i < last * job.embedding_dim; ++i) out[i] = T::encode(job.rows[i]);
}

}  // namespace embstore::EMBSTORE_ISA
