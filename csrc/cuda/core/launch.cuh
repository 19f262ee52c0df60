// How a task runs: as a kernel on a device, or block by block and thread by thread on the host. A Task has
//   static constexpr int kThreads, kBlocks;            threads of a block; blocks a multiprocessor has room for at a
//   time int64_t blocks(const Target&) const;               may be 0 int64_t shared_bytes() const; memory of a block,
//   at a multiple of 16 int phases(const Grid&) const;                     EMBSTORE_HD, alike for all threads of a
//   block; between two phases all threads of a block wait for each other void phase(int p, const Grid&, uint8_t*
//   shared) const;    EMBSTORE_HD; nothing but `shared` lives on to the next
// and travels to the device by value.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cuda/core/device.h"
#include "cuda/core/number.cuh"

namespace embstore::cuda {

struct Grid {
  int64_t block, blocks;
  int thread;
};

template <class Task>
__global__ void __launch_bounds__(Task::kThreads, Task::kBlocks) run(const __grid_constant__ Task task) {
  extern __shared__ __align__(16) uint8_t shared[];
  const Grid grid{int64_t(blockIdx.x), int64_t(gridDim.x), int(threadIdx.x)};
  const int phases = task.phases(grid);
  for (int p = 0; p < phases; ++p) {
    if (p > 0) __syncthreads();
    task.phase(p, grid, shared);
  }
}

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the next call is not to blame
  throw Refused(int(status), std::string(what) + ": " + cudaGetErrorString(status));
}

template <class Task>
void launch(const Task& task, const Target& target) {
  const int64_t blocks = task.blocks(target), bytes = task.shared_bytes();
  if (blocks == 0) return;
  if (target.device < 0) {
    struct alignas(16) Line {
      uint8_t bytes[16];
    };
    std::vector<Line> shared(size_t((bytes + 15) / 16 + 1));
    for (int64_t b = 0; b < blocks; ++b)
      for (int p = 0, phases = task.phases(Grid{b, blocks, 0}); p < phases; ++p)
        for (int t = 0; t < Task::kThreads; ++t)
          task.phase(p, Grid{b, blocks, t}, reinterpret_cast<uint8_t*>(shared.data()));
    return;
  }
  if (bytes > 48 << 10)
    check(cudaFuncSetAttribute(run<Task>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
          "a kernel's memory");
  run<Task><<<unsigned(blocks), Task::kThreads, size_t(bytes), static_cast<cudaStream_t>(target.stream)>>>(task);
  check(cudaGetLastError(), "a launch");
}

// --- What tasks on ids share.

EMBSTORE_HD int64_t read_integer(const Integers& from, int64_t i) {
#if defined(__CUDA_ARCH__)
  return from.wide ? __ldg(static_cast<const long long*>(from.at) + i) : __ldg(static_cast<const int*>(from.at) + i);
#else
  return from.wide ? static_cast<const int64_t*>(from.at)[i] : static_cast<const int32_t*>(from.at)[i];
#endif
}

EMBSTORE_HD int64_t id_at(const LookupCall& call, int64_t i) {
  return call.ids.at == nullptr ? call.first + i * call.stride : read_integer(call.ids, i);
}

// Keeps the fault of the smallest position, whichever thread finds it first.
EMBSTORE_HD void report(Fault* fault, FaultKind kind, int64_t position, int64_t value) {
#if defined(__CUDA_ARCH__)
  volatile Fault* now = fault;
  if (position >= now->position) return;
  for (bool done = false; !done;) {
    if (atomicCAS(&fault->lock, 0u, 1u) != 0u) continue;
    __threadfence();
    if (position < now->position) {
      now->position = position;
      now->value = value;
      now->kind = kind;
    }
    __threadfence();
    atomicExch(&fault->lock, 0u);
    done = true;
  }
#else
  if (position < fault->position) *fault = {0, kind, position, value};
#endif
}

}  // namespace embstore::cuda
