// The orthonormal Walsh-Hadamard transform, smallest butterflies first, as embstore/transforms/rotate.py has it.
// Every value is a sum or difference of two, then one product: every instruction set and numpy give the same bits.
#pragma once
#include <cstdint>
#include <type_traits>

#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

inline void butterflies(float* x, int64_t p, int64_t h) {
  for (int64_t i = 0; i < p; i += 2 * h)
    for (int64_t j = i; j < i + h; ++j) {
      const float a = x[j], b = x[j + h];
      x[j] = a + b;
      x[j + h] = a - b;
    }
}

#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)

inline constexpr int kRegisters = 32;  // the longest run of values transformed without leaving registers

#if defined(EMBSTORE_ISA_AVX512)
using Bits = __m512i;
inline Bits load_bits(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats flip(Floats x, Bits signs) { return _mm512_xor_ps(x, _mm512_castsi512_ps(signs)); }
template <int H>
inline Floats swapped(Floats x) {
  if constexpr (H == 1) return _mm512_permute_ps(x, 0xb1);
  if constexpr (H == 2) return _mm512_permute_ps(x, 0x4e);
  if constexpr (H == 4) return _mm512_shuffle_f32x4(x, x, 0xb1);
  return _mm512_shuffle_f32x4(x, x, 0x4e);
}
#else
using Bits = __m256i;
inline Bits load_bits(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats flip(Floats x, Bits signs) { return _mm256_xor_ps(x, _mm256_castsi256_ps(signs)); }
template <int H>
inline Floats swapped(Floats x) {
  if constexpr (H == 1) return _mm256_permute_ps(x, 0xb1);
  if constexpr (H == 2) return _mm256_permute_ps(x, 0x4e);
  return _mm256_permute2f128_ps(x, x, 1);
}
#endif

template <int H>
struct LaneSigns {  // -1 in each lane whose place has bit H, 1 in the others
  alignas(64) float factors[Width] = {};
  constexpr LaneSigns() {
    for (int l = 0; l < Width; ++l) factors[l] = (l & H) != 0 ? -1.0f : 1.0f;
  }
};

// (a, b) to (a + b, a - b) for lanes H apart. The product with 1 or -1 is exact, so a fused one rounds as the sum does.
template <int N, int H>
EMBSTORE_INLINE void within(Floats (&x)[N]) {
  static constexpr LaneSigns<H> signs;
  const Floats factors = load(signs.factors);
#pragma GCC unroll 32
  for (int i = 0; i < N; ++i) x[i] = fused(x[i], factors, swapped<H>(x[i]));
}

template <int N, int H>
EMBSTORE_INLINE void across(Floats (&x)[N]) {
  if constexpr (H < N) {
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i)
      if ((i & H) == 0) {
        const Floats a = x[i], b = x[i + H];
        x[i] = add(a, b);
        x[i + H] = sub(a, b);
      }
    across<N, 2 * H>(x);
  }
}

// Butterflies of N * Width values; not yet scaled.
template <int N>
EMBSTORE_INLINE void transform(Floats (&x)[N]) {
  within<N, 1>(x);
  within<N, 2>(x);
  within<N, 4>(x);
  if constexpr (Width == 16) within<N, 8>(x);
  across<N, 1>(x);
}

template <int N>
inline void transform_run(float* x, float scale) {
  Floats v[N];
#pragma GCC unroll 32
  for (int i = 0; i < N; ++i) v[i] = load(x + i * Width);
  transform<N>(v);
#pragma GCC unroll 32
  for (int i = 0; i < N; ++i) store(x + i * Width, mul(v[i], set1(scale)));
}

// Calls body(std::integral_constant<int, N>) for p == N * Width; false where there is no such N.
template <class Body>
inline bool with_registers(int64_t p, Body body) {
  switch (p) {
    case 1 * Width:
      body(std::integral_constant<int, 1>());
      return true;
    case 2 * Width:
      body(std::integral_constant<int, 2>());
      return true;
    case 4 * Width:
      body(std::integral_constant<int, 4>());
      return true;
    case 8 * Width:
      body(std::integral_constant<int, 8>());
      return true;
    case 16 * Width:
      body(std::integral_constant<int, 16>());
      return true;
    case 32 * Width:
      body(std::integral_constant<int, 32>());
      return true;
    default:
      return false;
  }
}

#endif

// In place, p a power of two; `scale` is 1 / sqrt(p).
inline void hadamard(float* x, int64_t p, float scale) {
  int64_t h = 1;
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  const int64_t run = p < kRegisters * Width ? p : int64_t(kRegisters * Width);
  for (int64_t i = 0; i < p; i += run)
    if (with_registers(run, [&](auto n) { transform_run<n()>(x + i, run == p ? scale : 1.0f); })) h = run;
  if (h == p) return;
#endif
  for (; h < p; h *= 2) butterflies(x, p, h);
  for (int64_t j = 0; j < p; ++j) x[j] *= scale;
}

}  // namespace embstore::EMBSTORE_ISA
