// The few vector operations the kernels need, once per instruction set. `Width` is the number of float lanes;
// it is 1 where only the plain loops exist. Loads read exactly Width elements (Width / 2 or Width / 4 bytes for
// packed codes), never beyond. mul_add_exact is for products that float32 holds exactly: fused or not, one rounding.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/half.h"

#if defined(EMBSTORE_ISA_AVX2) || defined(EMBSTORE_ISA_AVX512)
#include <immintrin.h>
#elif defined(EMBSTORE_ISA_NEON)
#include <arm_neon.h>
#endif

// In the loop over rows a call that is not inlined spills every vector register held across it.
#define EMBSTORE_INLINE inline __attribute__((always_inline))

namespace embstore::EMBSTORE_ISA {

// Not __builtin_prefetch: GCC takes a function that only prefetches for a pure one and drops the call.
inline void prefetch(const void* at) {
#if defined(__x86_64__)
  asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(at)));
#elif defined(__aarch64__)
  asm volatile("prfm pldl1keep, %0" : : "Q"(*static_cast<const char*>(at)));
#else
  __builtin_prefetch(at, 0, 3);
#endif
}

#if defined(EMBSTORE_ISA_AVX512)

inline constexpr int Width = 16;
using Floats = __m512;
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
inline void stream(float* p, Floats v) { _mm512_stream_ps(p, v); }
inline void stream_end() { _mm_sfence(); }
inline Floats set1(float x) { return _mm512_set1_ps(x); }
inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
// The larger; a NaN on either side wins.
inline Floats max_nan(Floats a, Floats x) {
  const __mmask16 take = _mm512_cmp_ps_mask(x, a, _CMP_NLE_UQ) & _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q);
  return _mm512_mask_mov_ps(a, take, x);
}
inline void store_half(uint16_t* p, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline __m128i bytes16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i bytes32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Floats from_u8(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes16(p))); }
inline Floats from_i8(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes16(p))); }
inline Floats from_u16(const uint16_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(bytes32(p))); }
inline Floats from_i16(const int16_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(bytes32(p))); }
inline Floats from_half(const uint16_t* p) { return _mm512_cvtph_ps(bytes32(p)); }
inline Floats from_bfloat16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bytes32(p)), 16));
}
using Codes = __m512i;  // one small unsigned code in each 32-bit lane
inline Codes codes_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(bytes16(p)); }
inline Floats to_floats(Codes c) { return _mm512_cvtepi32_ps(c); }
inline Floats widen1(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_set1_epi16(int16_t(*p))); }
inline void widen2(const uint16_t* p, Floats& first, Floats& second) {
  int32_t both;
  std::memcpy(&both, p, 4);
  const Floats pairs = _mm512_cvtph_ps(_mm256_set1_epi32(both));
  first = _mm512_moveldup_ps(pairs);
  second = _mm512_movehdup_ps(pairs);
}
inline Floats mul_add_exact(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// table[code] for 16 packed codes, in two instructions: a shift moves each code to the foot of a 32-bit lane, and the
// permute reads only the lowest 4 bits. Codes of 2 bits bring their neighbour, so their table repeats every 4.
inline constexpr bool kPicks = true;
inline Floats pick_u4(Floats table, const uint8_t* p) {
  const __m512i shifts = _mm512_setr_epi64(0x400000000, 0xc00000008, 0x1400000010, 0x1c00000018, 0x2400000020,
                                           0x2c00000028, 0x3400000030, 0x3c00000038);
  int64_t eight;
  std::memcpy(&eight, p, 8);
  return _mm512_permutexvar_ps(_mm512_multishift_epi64_epi8(shifts, _mm512_set1_epi64(eight)), table);
}
inline Floats pick_u2(Floats table, const uint8_t* p) {
  const __m512i shifts = _mm512_setr_epi64(0x200000000, 0x600000004, 0xa00000008, 0xe0000000c, 0x1200000010,
                                           0x1600000014, 0x1a00000018, 0x1e0000001c);
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm512_permutexvar_ps(_mm512_multishift_epi64_epi8(shifts, _mm512_set1_epi32(four)), table);
}

#elif defined(EMBSTORE_ISA_AVX2)

inline constexpr int Width = 8;
using Floats = __m256;
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
inline void stream(float* p, Floats v) { _mm256_stream_ps(p, v); }
inline void stream_end() { _mm_sfence(); }
inline Floats set1(float x) { return _mm256_set1_ps(x); }
inline Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats max_nan(Floats a, Floats x) {
  const Floats take = _mm256_and_ps(_mm256_cmp_ps(x, a, _CMP_NLE_UQ), _mm256_cmp_ps(a, a, _CMP_ORD_Q));
  return _mm256_blendv_ps(a, x, take);
}
inline void store_half(uint16_t* p, Floats v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline __m128i bytes8(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline __m128i bytes16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline Floats from_u8(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes8(p))); }
inline Floats from_i8(const int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes8(p))); }
inline Floats from_u16(const uint16_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(bytes16(p))); }
inline Floats from_i16(const int16_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(bytes16(p))); }
inline Floats from_half(const uint16_t* p) { return _mm256_cvtph_ps(bytes16(p)); }
inline Floats from_bfloat16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bytes16(p)), 16));
}
using Codes = __m256i;
inline Codes codes_u8(const uint8_t* p) { return _mm256_cvtepu8_epi32(bytes8(p)); }
inline Codes codes_u4(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, 4);
  const __m128i pairs = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(int(four)));
  return _mm256_cvtepu8_epi32(_mm_and_si128(_mm_or_si128(pairs, _mm_slli_epi16(pairs, 4)), _mm_set1_epi8(15)));
}
inline Codes codes_u2(const uint8_t* p) {
  uint16_t two;
  std::memcpy(&two, p, 2);
  __m128i x = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(two));
  x = _mm_or_si128(_mm_or_si128(x, _mm_slli_epi32(x, 6)), _mm_or_si128(_mm_slli_epi32(x, 12), _mm_slli_epi32(x, 18)));
  return _mm256_cvtepu8_epi32(_mm_and_si128(x, _mm_set1_epi8(3)));
}
inline Floats to_floats(Codes c) { return _mm256_cvtepi32_ps(c); }
inline Floats widen1(const uint16_t* p) { return _mm256_cvtph_ps(_mm_set1_epi16(int16_t(*p))); }
inline void widen2(const uint16_t* p, Floats& first, Floats& second) {
  int32_t both;
  std::memcpy(&both, p, 4);
  const Floats pairs = _mm256_cvtph_ps(_mm_set1_epi32(both));
  first = _mm256_moveldup_ps(pairs);
  second = _mm256_movehdup_ps(pairs);
}
inline Floats mul_add_exact(Floats a, Floats b, Floats c) { return add(mul(a, b), c); }
inline constexpr bool kPicks = false;
inline Floats pick16(const float* table, Codes c) {
  const Floats low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), c);
  const Floats high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), c);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)));
}

#elif defined(EMBSTORE_ISA_NEON)

inline constexpr int Width = 4;
using Floats = float32x4_t;
inline Floats load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Floats v) { vst1q_f32(p, v); }
inline void stream(float* p, Floats v) { vst1q_f32(p, v); }
inline void stream_end() {}
inline Floats set1(float x) { return vdupq_n_f32(x); }
inline Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
inline Floats div(Floats a, Floats b) { return vdivq_f32(a, b); }
inline Floats max_nan(Floats a, Floats x) { return vmaxq_f32(a, x); }  // NEON's own max propagates NaN
inline void store_half(uint16_t* p, Floats v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
inline uint32x4_t lanes_u8(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, 4);
  return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}
inline Floats from_u8(const uint8_t* p) { return vcvtq_f32_u32(lanes_u8(p)); }
inline Floats from_i8(const int8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, 4);
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four)))));
}
inline Floats from_u16(const uint16_t* p) { return vcvtq_f32_u32(vmovl_u16(vld1_u16(p))); }
inline Floats from_i16(const int16_t* p) { return vcvtq_f32_s32(vmovl_s16(vld1_s16(p))); }
inline Floats from_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline Floats from_bfloat16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
using Codes = uint32x4_t;
inline Codes codes_u8(const uint8_t* p) { return lanes_u8(p); }
inline Codes codes_u4(const uint8_t* p) {
  const uint32_t lanes[4] = {uint32_t(p[0] & 15), uint32_t(p[0] >> 4), uint32_t(p[1] & 15), uint32_t(p[1] >> 4)};
  return vld1q_u32(lanes);
}
inline Codes codes_u2(const uint8_t* p) {
  const uint32_t lanes[4] = {uint32_t(p[0] & 3), uint32_t((p[0] >> 2) & 3), uint32_t((p[0] >> 4) & 3),
                             uint32_t(p[0] >> 6)};
  return vld1q_u32(lanes);
}
inline Floats to_floats(Codes c) { return vcvtq_f32_u32(c); }
inline Floats widen1(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(*p))); }
inline void widen2(const uint16_t* p, Floats& first, Floats& second) {
  first = widen1(p);
  second = widen1(p + 1);
}
inline Floats mul_add_exact(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline constexpr bool kPicks = false;
inline Floats pick16(const float* table, Codes c) {
  const float lanes[4] = {table[vgetq_lane_u32(c, 0)], table[vgetq_lane_u32(c, 1)], table[vgetq_lane_u32(c, 2)],
                          table[vgetq_lane_u32(c, 3)]};
  return vld1q_f32(lanes);
}

#else

inline constexpr int Width = 1;

#endif

#if !defined(EMBSTORE_ISA_REF)
// One number, or two neighbours, each in every lane.
inline Floats widen1(const float* p) { return set1(*p); }
inline void widen2(const float* p, Floats& first, Floats& second) {
  first = set1(p[0]);
  second = set1(p[1]);
}
#endif

inline float max_nan_one(float a, float x) { return !(x <= a) && a == a ? x : a; }

}  // namespace embstore::EMBSTORE_ISA
