// Linear layers and what goes between them, for the methods whose rows are an MLP of the id: maps behind the kernel
// that decodes what the first layer takes.
#pragma once
#include <string>

#include "cuda/core/transform.h"

namespace embstore::cuda {

// Layer `number` of a table: arrays weight<number> (inputs, outputs) and bias<number> (outputs). activate: through
// Mish. residual: so many of the values before the first layer are added to the first of the last.
std::unique_ptr<Map> layer_map(const Table& t, int64_t number, int64_t inputs, int64_t outputs, bool activate,
                               int64_t features = 0, int64_t residual = 0);

// x[j] gelu(x[width + j]) for j < width.
std::unique_ptr<Map> geglu_map(int64_t width);

}  // namespace embstore::cuda
