// For functions of host code that kernels on devices call too.
#pragma once

#if defined(__CUDACC__)
#define EMBSTORE_BOTH __host__ __device__ inline
#else
#define EMBSTORE_BOTH inline
#endif
