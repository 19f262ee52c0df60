#include "methods/_float.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Float32 {
  using Stored = float;
  static float one(float x) { return x; }
  static float encode(float x) { return x; }
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const float* p) { return load(p); }
#endif
};

}  // namespace
EMBSTORE_REGISTER(float32, float_kernel<Float32>, float_encode<Float32>);
}  // namespace embstore::EMBSTORE_ISA
