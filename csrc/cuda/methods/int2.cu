#include "cuda/methods/_affine.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int2, affine_kernel<2>);
}  // namespace embstore::cuda
