// Values as ragged methods store them: how one is read, and how the first k of a vector are, without touching the rest.
#pragma once
#include "core/half.h"
#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

struct StoredFloat {
  using Item = float;
  static float one(float x) { return x; }
#if defined(EMBSTORE_ISA_AVX512)
  static Floats first(const float* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
#endif
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const float* p) { return load(p); }
#endif
};

struct StoredHalf {
  using Item = uint16_t;
  static float one(uint16_t x) { return half_to_float(x); }
#if defined(EMBSTORE_ISA_AVX512)
  static Floats first(const uint16_t* p, __mmask16 lanes) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
  }
#endif
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const uint16_t* p) { return from_half(p); }
#endif
};

struct StoredByte {
  using Item = int8_t;
  static float one(int8_t x) { return float(x); }
#if defined(EMBSTORE_ISA_AVX512)
  static Floats first(const int8_t* p, __mmask16 lanes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes, p)));
  }
#endif
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const int8_t* p) { return from_i8(p); }
#endif
};

}  // namespace embstore::EMBSTORE_ISA
