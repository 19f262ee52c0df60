// float32, float16, bfloat16: one array `values`, a value per element.
#pragma once
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

template <class T>
struct FloatDecode {
  RowArrays<1> arrays;
  int64_t dim, line_bytes;
  using Place = RowArrays<1>::Place;
  using Stored = typename T::Stored;

  explicit FloatDecode(const TableView& t)
      : arrays(t, {"values"}), dim(t.embedding_dim), line_bytes(arrays.row_bytes[0]) {}
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const auto* row = reinterpret_cast<const Stored*>(place[0]);
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, 1>(j, dim, [&](int64_t at) { sink.many(at, T::many(row + at)); });
#endif
    for (; j < dim; ++j) sink.one(j, T::one(row[j]));
  }
#if !defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return true; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const uint8_t* tail = place[0] + (dim - Group * Width) * int64_t(sizeof(Stored));
    over_columns<N, Group>(place[0], tail, [&](int k, const uint8_t* from, int64_t j) {
      body(k, T::many(reinterpret_cast<const Stored*>(from) + j));
    });
  }
#endif
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
