#include "cuda/methods/_grid.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(binary, grid_kernel);
}  // namespace embstore::cuda
