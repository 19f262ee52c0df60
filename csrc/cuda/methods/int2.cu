#include "cuda/methods/_affine.cuh"
#include "cuda/methods/_affine_encode.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int2, affine_kernel<2>);
EMBSTORE_CUDA_REGISTER_ENCODER(int2, affine_encode<2>);
}  // namespace embstore::cuda
