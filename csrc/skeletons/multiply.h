// Products with a matrix that many rows share: out[r] = sum over k of in[r][k] * matrix[k], in this order, each
// operation rounded, as embstore/products.py has it. The matrix is of floats, or of signed codes, which are widened as
// they are read.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

// R rows share each load of the matrix; Columns registers of each are summed over all of k. Returns where it stopped.
#if !defined(EMBSTORE_ISA_REF)
EMBSTORE_INLINE Floats widened(const float* p) { return load(p); }
EMBSTORE_INLINE Floats widened(const int8_t* p) { return from_i8(p); }

template <int R, int Columns, class Item>
inline int64_t multiply_columns(const float* in, int64_t depth, const Item* matrix, int64_t width, float* out,
                                int64_t j) {
  for (; j + Columns * Width <= width; j += Columns * Width) {
    Floats sums[R][Columns];
    for (int c = 0; c < Columns; ++c)
      for (int r = 0; r < R; ++r) sums[r][c] = mul(set1(in[r * depth]), widened(matrix + j + c * Width));
    for (int64_t k = 1; k < depth; ++k) {
      const Item* line = matrix + k * width + j;
      for (int c = 0; c < Columns; ++c) {
        const Floats weight = widened(line + c * Width);
        for (int r = 0; r < R; ++r) sums[r][c] = add(sums[r][c], mul(set1(in[r * depth + k]), weight));
      }
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < Columns; ++c) store(out + r * width + j + c * Width, sums[r][c]);
  }
  return j;
}
#endif

// The same for the columns that fill no register: four at a time, then one.
using Four = float __attribute__((vector_size(16)));

template <class Values>
EMBSTORE_INLINE Values widened_few(const float* p) {
  Values values;
  std::memcpy(&values, p, sizeof values);
  return values;
}
template <class Values>
EMBSTORE_INLINE Values widened_few(const int8_t* p) {
  if constexpr (sizeof(Values) == sizeof(float)) {
    return Values(*p);
  } else {
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
    int32_t bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(bytes)));
#elif defined(EMBSTORE_ISA_NEON)
    return from_i8(p);
#else
    return Values{float(p[0]), float(p[1]), float(p[2]), float(p[3])};
#endif
  }
}

template <int R, class Values, class Item>
inline int64_t multiply_few(const float* in, int64_t depth, const Item* matrix, int64_t width, float* out, int64_t j) {
  constexpr int64_t kCount = sizeof(Values) / sizeof(float);
  for (; j + kCount <= width; j += kCount) {
    Values sums[R], weight = widened_few<Values>(matrix + j);
    for (int r = 0; r < R; ++r) sums[r] = in[r * depth] * weight;
    for (int64_t k = 1; k < depth; ++k) {
      weight = widened_few<Values>(matrix + k * width + j);
      for (int r = 0; r < R; ++r) sums[r] += in[r * depth + k] * weight;
    }
    for (int r = 0; r < R; ++r) std::memcpy(out + r * width + j, &sums[r], sizeof weight);
  }
  return j;
}

template <int R, class Item>
inline void multiply_rows(const float* in, int64_t depth, const Item* matrix, int64_t width, float* out) {
  int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
  // A sum waits for the one before it: a row on its own needs more of them at a time.
  if (R == 1) j = multiply_columns<R, 4>(in, depth, matrix, width, out, j);
  j = multiply_columns<R, 2>(in, depth, matrix, width, out, j);
  j = multiply_columns<R, 1>(in, depth, matrix, width, out, j);
  j = multiply_few<R, Four>(in, depth, matrix, width, out, j);
#endif
  multiply_few<R, float>(in, depth, matrix, width, out, j);
}

// in: n x depth, depth at least 1; matrix: depth x width; out: n x width, none of it in `in` or `matrix`.
template <class Item>
inline void multiply(const float* in, int64_t n, int64_t depth, const Item* matrix, int64_t width, float* out) {
  int64_t r = 0;
  for (; r + 4 <= n; r += 4) multiply_rows<4>(in + r * depth, depth, matrix, width, out + r * width);
  for (; r + 2 <= n; r += 2) multiply_rows<2>(in + r * depth, depth, matrix, width, out + r * width);
  for (; r < n; ++r) multiply_rows<1>(in + r * depth, depth, matrix, width, out + r * width);
}

}  // namespace embstore::EMBSTORE_ISA
