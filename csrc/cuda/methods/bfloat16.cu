#include "cuda/methods/_float.cuh"
#include "cuda/methods/_float_encode.cuh"

namespace embstore::cuda {
namespace {

struct BFloat16 {
  static constexpr int kBytes = 2;
  using Stored = uint16_t;
  EMBSTORE_HD static float one(uint32_t bits) { return bits_float(bits << 16); }
  EMBSTORE_HD static Stored encode(float x) { return float_to_bfloat16(x); }
  EMBSTORE_HD static bool held(Stored) { return true; }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(bfloat16, row_kernel<FloatDecode<BFloat16>>);
EMBSTORE_CUDA_REGISTER_ENCODER(bfloat16, float_encode<BFloat16>);
}  // namespace embstore::cuda
