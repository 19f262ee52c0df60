// rabitq, turboquant, binary: value = level of the code * scale of the row, one rounding.
#pragma once
#include "cuda/core/kernel.h"

namespace embstore::cuda {

std::unique_ptr<Kernel> grid_kernel(const Table& table);

}  // namespace embstore::cuda
