#include "cuda/methods/_affine.cuh"
#include "cuda/methods/_affine_encode.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int16, affine_kernel<16>);
EMBSTORE_CUDA_REGISTER_ENCODER(int16, affine_encode<16>);
}  // namespace embstore::cuda
