#include "cuda/methods/_affine.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(int8, affine_kernel<8>);
}  // namespace embstore::cuda
