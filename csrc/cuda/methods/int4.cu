#include "cuda/methods/_affine.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int4, affine_kernel<4>);
}  // namespace embstore::cuda
