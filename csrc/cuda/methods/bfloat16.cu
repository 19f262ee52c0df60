#include "cuda/methods/_float.cuh"

namespace embstore::cuda {
namespace {

struct BFloat16 {
  static constexpr int kBytes = 2;
  EMBSTORE_HD static float one(uint32_t bits) { return bits_float(bits << 16); }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(bfloat16, row_kernel<FloatDecode<BFloat16>>);
}  // namespace embstore::cuda
