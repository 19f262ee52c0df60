// Dot products of floats. Sums may be reordered and fused here: search promises an error bound, not bits.
#pragma once
#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

#if defined(EMBSTORE_ISA_AVX512)
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline float total(Floats v) { return _mm512_reduce_add_ps(v); }
#elif defined(EMBSTORE_ISA_AVX2)
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline float total(Floats v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
#elif defined(EMBSTORE_ISA_NEON)
inline Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline float total(Floats v) { return vaddvq_f32(v); }
#endif

}  // namespace embstore::EMBSTORE_ISA
