// A config as kernels take it, for both extensions.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "core/table.h"

namespace nb = nanobind;
using namespace embstore;

Params params_of(const nb::dict& config) {
  Params params;
  for (auto [name, value] : config) {
    const auto key = nb::cast<std::string>(name);
    if (nb::isinstance<nb::bool_>(value))
      params.integers[key] = nb::cast<bool>(value);
    else if (nb::isinstance<nb::int_>(value))
      params.integers[key] = nb::cast<int64_t>(value);
    else if (nb::isinstance<nb::str>(value))
      params.texts[key] = nb::cast<std::string>(value);
  }
  return params;
}
