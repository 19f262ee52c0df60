// The sine of embstore/methods/fourier.py, bit for bit, for processors and devices.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define EMBSTORE_ANYWHERE __host__ __device__ __forceinline__
#else
#define EMBSTORE_ANYWHERE inline
#endif

namespace embstore::EMBSTORE_ISA {

// Of `phase` / 2^32 turns.
EMBSTORE_ANYWHERE float sine(uint32_t phase) {
  const int32_t q = int32_t(phase);
  const int32_t folded = q > (1 << 30) || q < -(1 << 30) ? int32_t(0x80000000u - phase) : q;
  const double z = folded * (1.0 / (1 << 30)), s = z * z;
  double p = 5.692172921967926e-08;
  p = p * s - 3.598843235212085e-06;
  p = p * s + 0.00016044118478735983;
  p = p * s - 0.004681754135318687;
  p = p * s + 0.07969262624616703;
  p = p * s - 0.6459640975062462;
  p = p * s + 1.5707963267948966;
  return float(p * z);
}

}  // namespace embstore::EMBSTORE_ISA
