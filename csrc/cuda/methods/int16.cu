#include "cuda/methods/_affine.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int16, affine_kernel<16>);
}  // namespace embstore::cuda
