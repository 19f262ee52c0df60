// Rows of floats on a device to the arrays of a method. Plain C++.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cuda/core/kernel.h"

namespace embstore::cuda {

// rows: n x dim floats, dense. `out`: the method's rows arrays; `shared`: what it needs besides, as in Table. A NaN or
// an infinity is a fault unless `keep`; its position is that of the value. A row whose values the method cannot hold is
// one too; its position is that of the row's first value.
struct EncodeCall {
  const float* rows = nullptr;
  int64_t n = 0, dim = 0;
  std::map<std::string, Rows> out;
  std::map<std::string, Shared> shared;
  Params params;
  bool keep = false;
  Fault* fault = nullptr;

  uint8_t* array(const char* name) const { return const_cast<uint8_t*>(out.at(name).data); }
};

// Launches and returns. Throws std::invalid_argument for arrays that do not fit, Refused where CUDA does.
using EncodeFunction = void (*)(const EncodeCall&, const Target&);

// Called at static initialization, from the foot of each file in csrc/cuda/methods that has one.
bool register_encoder(const char* method, EncodeFunction function);
EncodeFunction find_encoder(const std::string& method);  // null if there is none
std::vector<std::string> encoders();

}  // namespace embstore::cuda

#define EMBSTORE_CUDA_REGISTER_ENCODER(id, function) \
  static const bool registered_encoder_##id = ::embstore::cuda::register_encoder(#id, function)
