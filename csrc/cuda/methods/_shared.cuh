// Shared arrays as kernels take them, their sizes checked.
#pragma once
#include <stdexcept>
#include <string>

#include "cuda/core/kernel.h"

namespace embstore::cuda {

// `count` items, or any number for -1: where kernels read them.
// From: a Table, or what else has `shared`.
template <class T, class From>
const T* shared_items(const From& t, const std::string& name, int64_t count) {
  const auto at = t.shared.find(name);
  if (at == t.shared.end() || at->second.nbytes % int64_t(sizeof(T)) != 0 ||
      (count >= 0 && at->second.nbytes != count * int64_t(sizeof(T))))
    throw std::invalid_argument("array " + name + " is missing or of the wrong size; restore the table from a copy");
  return reinterpret_cast<const T*>(at->second.data);
}

// The same where the constructor of a functor reads them.
template <class T, class From>
const T* host_items(const From& t, const std::string& name, int64_t count) {
  shared_items<T>(t, name, count);
  return reinterpret_cast<const T*>(t.shared.at(name).host);
}

}  // namespace embstore::cuda
