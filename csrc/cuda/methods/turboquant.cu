#include "cuda/methods/_grid.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(turboquant, grid_kernel);
}  // namespace embstore::cuda
