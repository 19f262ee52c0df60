// One stored scale as a float, by the processor's own conversion of half floats where it has one.
#pragma once
#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

inline float widen(float x) { return x; }
inline float widen(uint16_t half) {
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  return _cvtsh_ss(half);
#else
  return half_to_float(half);
#endif
}

}  // namespace embstore::EMBSTORE_ISA
