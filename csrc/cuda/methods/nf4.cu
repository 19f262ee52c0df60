#include "cuda/methods/_codebook.cuh"
#include "cuda/methods/_codebook_encode.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(nf4, codebook_kernel<4>);
EMBSTORE_CUDA_REGISTER_ENCODER(nf4, encode<CodebookEncoder<4>>);
}  // namespace embstore::cuda
