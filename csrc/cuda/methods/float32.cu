#include "cuda/methods/_float.cuh"
#include "cuda/methods/_float_encode.cuh"

namespace embstore::cuda {
namespace {

struct Float32 {
  static constexpr int kBytes = 4;
  using Stored = uint32_t;
  EMBSTORE_HD static float one(uint32_t bits) { return bits_float(bits); }
  EMBSTORE_HD static Stored encode(float x) { return float_to_bits(x); }
  EMBSTORE_HD static bool held(Stored) { return true; }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(float32, row_kernel<FloatDecode<Float32>>);
EMBSTORE_CUDA_REGISTER_ENCODER(float32, float_encode<Float32>);
}  // namespace embstore::cuda
