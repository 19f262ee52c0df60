// Products of bytes summed as 32-bit integers, a row a lane, and what turns rows into registers of four columns each.
#pragma once
#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

#if defined(EMBSTORE_ISA_AVX512)

inline constexpr int64_t kSumRows = 16;  // rows in a register
using Sums = __m512i;                    // an int32 for each row
inline Sums no_sums() { return _mm512_setzero_si512(); }
// Four columns of each row.
inline Sums four_columns(const uint8_t* at) { return _mm512_loadu_si512(at); }
inline Sums four_of_query(const int8_t* at) {
  int32_t four;
  std::memcpy(&four, at, 4);
  return _mm512_set1_epi32(four);
}
inline Sums add_products(Sums sums, Sums codes, Sums query) { return _mm512_dpbusd_epi32(sums, codes, query); }
inline Floats as_floats(Sums sums) { return _mm512_cvtepi32_ps(sums); }

// A 16 x 16 matrix of 32-bit items: rows to columns.
inline void turn(Sums (&x)[16]) {
  Sums y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int k = 0; k < 2; ++k) {
      x[i + 2 * k] = _mm512_unpacklo_epi64(y[i + k], y[i + 2 + k]);
      x[i + 2 * k + 1] = _mm512_unpackhi_epi64(y[i + k], y[i + 2 + k]);
    }
  for (int i = 0; i < 4; ++i) {  // x[4 b + i]: column i of each quarter, of rows 4 b to 4 b + 3
    const Sums low = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88), high = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
    const Sums more = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88),
               most = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
    y[i] = _mm512_shuffle_i32x4(low, more, 0x88);
    y[8 + i] = _mm512_shuffle_i32x4(low, more, 0xdd);
    y[4 + i] = _mm512_shuffle_i32x4(high, most, 0x88);
    y[12 + i] = _mm512_shuffle_i32x4(high, most, 0xdd);
  }
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

#elif defined(EMBSTORE_ISA_AVX2)

inline constexpr int64_t kSumRows = 8;
using Sums = __m256i;
inline Sums no_sums() { return _mm256_setzero_si256(); }
inline Sums four_columns(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
inline Sums four_of_query(const int8_t* at) {
  int32_t four;
  std::memcpy(&four, at, 4);
  return _mm256_set1_epi32(four);
}
// maddubs adds two products in 16 bits and saturates: of 8-bit codes the query must be at most 64, 2 * 255 * 64 fits.
inline Sums add_products(Sums sums, Sums codes, Sums query) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, query), _mm256_set1_epi16(1)));
}
inline Floats as_floats(Sums sums) { return _mm256_cvtepi32_ps(sums); }

#else

inline constexpr int64_t kSumRows = 1;

#endif

}  // namespace embstore::EMBSTORE_ISA
