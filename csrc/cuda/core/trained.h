// Rows of methods in training: weights in, rows out, and the gradient of rows back to that of the weights. Plain C++.
#pragma once
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

#include "core/table.h"
#include "cuda/core/kernel.h"

namespace embstore::cuda {

// Weights as their owner has them: dense, aligned to their own type and no further, with nothing behind them. Of
// weights that are not trained, and in the forward direction, the gradient is null; of weights whose values the
// backward direction does not need, the values are.
struct Weights {
  const uint8_t* values = nullptr;
  float* gradient = nullptr;
  int64_t nbytes = 0;  // of the values
};

// Forward: rows (n, dim) are written. Backward: rows are the gradient of those, and what it makes is added to the
// gradients of the weights, in any order. An id out of range stops the device, as those of PyTorch's own kernels do.
struct TrainedCall {
  int64_t num_embeddings = 0, dim = 0;
  Params params;
  std::map<std::string, Weights> weights;
  const int64_t* ids = nullptr;
  int64_t n = 0;
  float* rows = nullptr;
  bool backward = false;

  // `count` items, either values or a gradient of as many.
  template <class T>
  const T* values(const std::string& name, int64_t count) const {
    return reinterpret_cast<const T*>(sized(name, count * int64_t(sizeof(T))).values);
  }
  float* gradient(const std::string& name, int64_t count) const {
    return sized(name, count * int64_t(sizeof(float))).gradient;
  }

 private:
  const Weights& sized(const std::string& name, int64_t nbytes) const {
    const auto at = weights.find(name);
    if (at == weights.end() || at->second.nbytes != nbytes)
      throw std::invalid_argument("weights " + name + " are missing or of the wrong size");
    return at->second;
  }
};

// Launches and returns. Throws std::invalid_argument for weights that do not fit, Refused where CUDA does.
using TrainedFunction = void (*)(const TrainedCall&, const Target&);

// Called at static initialization, from the foot of each file in csrc/cuda/nn.
bool register_trained(const char* kind, TrainedFunction function);
TrainedFunction find_trained(const std::string& kind);  // null if there is none

}  // namespace embstore::cuda

#define EMBSTORE_CUDA_REGISTER_TRAINED(kind, function) \
  static const bool registered_trained_##kind = ::embstore::cuda::register_trained(#kind, function)
