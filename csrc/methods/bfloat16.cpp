#include "methods/_float.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct BFloat16 {
  using Stored = uint16_t;
  static float one(uint16_t x) { return bits_to_float(uint32_t(x) << 16); }
  static uint16_t encode(float x) {
    const uint32_t bits = float_to_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);  // keep a NaN a NaN
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const uint16_t* p) { return from_bfloat16(p); }
#endif
};

}  // namespace
EMBSTORE_REGISTER(bfloat16, float_kernel<BFloat16>, float_encode<BFloat16>);
}  // namespace embstore::EMBSTORE_ISA
