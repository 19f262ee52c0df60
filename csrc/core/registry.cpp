#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/by_isa.h"
#include "core/table.h"

namespace embstore {
namespace {

bool cpu_has(const std::string& isa) {
#if defined(__x86_64__)
  // What setup.py compiles with: the set of Ice Lake and Zen 4. Processors with less of AVX-512 take the AVX2 copy.
  if (isa == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512vpopcntdq");
  // Every processor with AVX2 also converts half floats (F16C).
  if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(__aarch64__)
  if (isa == "neon") return true;
#endif
  return isa == "ref";
}

}  // namespace

bool register_method(const char* method, const char* isa, KernelFactory kernel, EncodeFunction encode) {
  return by_isa<MethodEntry>().add(method, isa, {kernel, encode, isa});
}

std::vector<std::string> usable_isas() {
  const std::vector<std::string> ladder = {"avx512", "avx2", "neon", "ref"};
  const char* forced = std::getenv("EMBSTORE_ISA");
  std::vector<std::string> usable;
  bool below = forced == nullptr || *forced == 0;
  for (const auto& isa : ladder) {
    if (!below && isa == forced) below = true;
    if (below && cpu_has(isa)) usable.push_back(isa);
  }
  if (!below)
    throw std::invalid_argument(std::string("EMBSTORE_ISA must be avx512, avx2, neon or ref, found '") + forced +
                                "'; unset it to let embstore choose");
  return usable;
}

MethodEntry find_method(const std::string& method) { return by_isa<MethodEntry>().find(method); }

}  // namespace embstore
