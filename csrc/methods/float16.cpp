#include "methods/_float.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Float16 {
  using Stored = uint16_t;
  static float one(uint16_t x) { return half_to_float(x); }
  static uint16_t encode(float x) { return float_to_half(x); }
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const uint16_t* p) { return from_half(p); }
#endif
};

}  // namespace
EMBSTORE_REGISTER(float16, float_kernel<Float16>, float_encode<Float16>);
}  // namespace embstore::EMBSTORE_ISA
