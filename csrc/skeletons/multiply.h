// Products with a matrix that many rows share: out[r] = sum over k of in[r][k] * matrix[k], in this order, each
// operation rounded, as embstore/products.py has it.
#pragma once
#include <cstdint>

#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

// R rows share each load of the matrix; Columns registers of each are summed over all of k. Returns where it stopped.
#if !defined(EMBSTORE_ISA_REF)
template <int R, int Columns>
inline int64_t multiply_columns(const float* in, int64_t depth, const float* matrix, int64_t width, float* out,
                                int64_t j) {
  for (; j + Columns * Width <= width; j += Columns * Width) {
    Floats sums[R][Columns];
    for (int c = 0; c < Columns; ++c)
      for (int r = 0; r < R; ++r) sums[r][c] = mul(set1(in[r * depth]), load(matrix + j + c * Width));
    for (int64_t k = 1; k < depth; ++k) {
      const float* line = matrix + k * width + j;
      for (int c = 0; c < Columns; ++c) {
        const Floats weight = load(line + c * Width);
        for (int r = 0; r < R; ++r) sums[r][c] = add(sums[r][c], mul(set1(in[r * depth + k]), weight));
      }
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < Columns; ++c) store(out + r * width + j + c * Width, sums[r][c]);
  }
  return j;
}
#endif

template <int R>
inline void multiply_rows(const float* in, int64_t depth, const float* matrix, int64_t width, float* out) {
  int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
  j = multiply_columns<R, 2>(in, depth, matrix, width, out, j);
  j = multiply_columns<R, 1>(in, depth, matrix, width, out, j);
#endif
  for (int r = 0; r < R; ++r) {
    const float* code = in + r * depth;
    float* row = out + r * width;
    for (int64_t c = j; c < width; ++c) row[c] = code[0] * matrix[c];
    for (int64_t k = 1; k < depth; ++k)
      for (int64_t c = j; c < width; ++c) row[c] += code[k] * matrix[k * width + c];
  }
}

// in: n x depth, depth at least 1; matrix: depth x width; out: n x width, none of it in `in` or `matrix`.
inline void multiply(const float* in, int64_t n, int64_t depth, const float* matrix, int64_t width, float* out) {
  int64_t r = 0;
  for (; r + 4 <= n; r += 4) multiply_rows<4>(in + r * depth, depth, matrix, width, out + r * width);
  for (; r < n; ++r) multiply_rows<1>(in + r * depth, depth, matrix, width, out + r * width);
}

}  // namespace embstore::EMBSTORE_ISA
