#include "cuda/methods/_affine.cuh"
#include "cuda/methods/_affine_encode.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int8, affine_kernel<8>);
EMBSTORE_CUDA_REGISTER_ENCODER(int8, affine_encode<8>);
}  // namespace embstore::cuda
