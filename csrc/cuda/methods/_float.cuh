// float32, float16, bfloat16: one array `values`, a value per element.
#pragma once
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {

// T: kBytes of a stored value, one(bits) -> float.
template <class T>
struct FloatDecode : NoTable {
  static constexpr int kColumns = 16 / T::kBytes;
  RowArrays<1> arrays;
  int dim;

  explicit FloatDecode(const Table& t) : arrays(t, {"values"}), dim(int(t.embedding_dim)) {}
  EMBSTORE_HD auto place(int64_t id) const { return arrays.place(id); }
  template <int V>
  EMBSTORE_HD auto fetch(const RowArrays<1>::Place& at, int j) const {
    return read_bytes<V * T::kBytes>(at[0] + j * T::kBytes, arrays.align[0]);
  }
  template <int V>
  EMBSTORE_HD void decode(const Bytes<V * T::kBytes>& raw, const RowArrays<1>::Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = T::one(raw.template code<8 * T::kBytes>(k));
  }
};

}  // namespace embstore::cuda
