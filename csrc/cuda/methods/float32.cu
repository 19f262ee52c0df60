#include "cuda/methods/_float.cuh"

namespace embstore::cuda {
namespace {

struct Float32 {
  static constexpr int kBytes = 4;
  EMBSTORE_HD static float one(uint32_t bits) { return bits_float(bits); }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(float32, row_kernel<FloatDecode<Float32>>);
}  // namespace embstore::cuda
