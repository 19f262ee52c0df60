#include "cuda/methods/_affine.cuh"
#include "cuda/methods/_affine_encode.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int4, affine_kernel<4>);
EMBSTORE_CUDA_REGISTER_ENCODER(int4, affine_encode<4>);
}  // namespace embstore::cuda
