#include "cuda/methods/_codebook.cuh"
#include "cuda/methods/_codebook_encode.cuh"

namespace embstore::cuda {
EMBSTORE_CUDA_REGISTER(dynamic8, codebook_kernel<8>);
EMBSTORE_CUDA_REGISTER_ENCODER(dynamic8, encode<CodebookEncoder<8>>);
}  // namespace embstore::cuda
