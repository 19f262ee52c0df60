#include "cuda/methods/_float.cuh"
#include "cuda/methods/_float_encode.cuh"
#include "cuda/search/scan.cuh"

namespace embstore::cuda {
namespace {

struct Float16 {
  static constexpr int kBytes = 2;
  using Stored = uint16_t;
  EMBSTORE_HD static float one(uint32_t bits) { return widen(uint16_t(bits)); }
  EMBSTORE_HD static Stored encode(float x) { return float_to_half(x); }
  EMBSTORE_HD static bool held(Stored stored) { return (stored & 0x7fff) != 0x7c00; }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(float16, scan_kernel<FloatDecode<Float16>>);
EMBSTORE_CUDA_REGISTER_ENCODER(float16, float_encode<Float16>);
}  // namespace embstore::cuda
