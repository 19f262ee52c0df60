#include "cuda/methods/_codebook.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(nf4, codebook_kernel<4>);
}  // namespace embstore::cuda
