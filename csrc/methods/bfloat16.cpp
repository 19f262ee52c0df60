#include "methods/_float.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct BFloat16 {
  using Stored = uint16_t;
  static float one(uint16_t x) { return bits_to_float(uint32_t(x) << 16); }
  static uint16_t encode(float x) { return float_to_bfloat16(x); }
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const uint16_t* p) { return from_bfloat16(p); }
#endif
};

}  // namespace
EMBSTORE_REGISTER(bfloat16, float_kernel<BFloat16>, float_encode<BFloat16>);
}  // namespace embstore::EMBSTORE_ISA
