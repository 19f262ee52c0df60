#include "cuda/core/encode.h"
#include "cuda/core/kernel.h"
#include "cuda/core/trained.h"

namespace embstore::cuda {
namespace {

// Constructed at first use, because registration runs before main.
std::map<std::string, KernelFactory>& all() {
  static std::map<std::string, KernelFactory> kernels;
  return kernels;
}
std::map<std::string, EncodeFunction>& all_encoders() {
  static std::map<std::string, EncodeFunction> functions;
  return functions;
}
std::map<std::string, TrainedFunction>& all_trained() {
  static std::map<std::string, TrainedFunction> functions;
  return functions;
}

}  // namespace

bool register_method(const char* method, KernelFactory kernel) {
  all()[method] = kernel;
  return true;
}

KernelFactory find_method(const std::string& method) {
  const auto at = all().find(method);
  return at == all().end() ? nullptr : at->second;
}

bool register_encoder(const char* method, EncodeFunction function) {
  all_encoders()[method] = function;
  return true;
}

EncodeFunction find_encoder(const std::string& method) {
  const auto at = all_encoders().find(method);
  return at == all_encoders().end() ? nullptr : at->second;
}

std::vector<std::string> encoders() {
  std::vector<std::string> names;
  for (const auto& [name, function] : all_encoders()) names.push_back(name);
  return names;
}

bool register_trained(const char* kind, TrainedFunction function) {
  all_trained()[kind] = function;
  return true;
}

TrainedFunction find_trained(const std::string& kind) {
  const auto at = all_trained().find(kind);
  return at == all_trained().end() ? nullptr : at->second;
}

std::vector<std::string> methods() {
  std::vector<std::string> names;
  for (const auto& [name, kernel] : all()) names.push_back(name);
  return names;
}

}  // namespace embstore::cuda
