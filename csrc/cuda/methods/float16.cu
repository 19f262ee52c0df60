#include "cuda/methods/_float.cuh"
#include "cuda/search/scan.cuh"

namespace embstore::cuda {
namespace {

struct Float16 {
  static constexpr int kBytes = 2;
  EMBSTORE_HD static float one(uint32_t bits) { return widen(uint16_t(bits)); }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(float16, scan_kernel<FloatDecode<Float16>>);
}  // namespace embstore::cuda
