// Arithmetic that host and device do alike: each operation is rounded once. Device code is compiled without fused
// multiply-adds; where one is exact it is asked for by name.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "core/half.h"  // compiled into this namespace: EMBSTORE_ISA is cuda here

#define EMBSTORE_HD __host__ __device__ __forceinline__

namespace embstore::cuda {

EMBSTORE_HD float bits_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return bits_to_float(bits);
#endif
}

EMBSTORE_HD float widen(uint16_t half) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(half));
#else
  return half_to_float(half);
#endif
}

// Round to nearest, ties to even.
EMBSTORE_HD uint16_t narrow(float value) {
#if defined(__CUDA_ARCH__)
  return __half_as_ushort(__float2half_rn(value));
#else
  return float_to_half(value);
#endif
}

// For products that float32 holds exactly: fused or not, one rounding.
EMBSTORE_HD float mul_add_exact(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

// For sums that are held to a bound, not to bits: fused on a device.
EMBSTORE_HD float mul_add(float a, float b, float c) { return mul_add_exact(a, b, c); }

// The larger; a NaN on either side wins.
EMBSTORE_HD float max_nan(float a, float x) { return !(x <= a) && a == a ? x : a; }

EMBSTORE_HD int count_ones(uint64_t word) {
#if defined(__CUDA_ARCH__)
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

template <class T>
EMBSTORE_HD constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}

}  // namespace embstore::cuda
