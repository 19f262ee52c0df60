#include "cuda/methods/_codebook.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(dynamic8, codebook_kernel<8>);
}  // namespace embstore::cuda
