// What product and residual codes check of their packed codes and float32 tables.
#pragma once
#include <stdexcept>

#include "methods/_codes.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

inline const float* floats_of(const std::map<std::string, SharedArray>& shared, const char* name, int64_t count) {
  auto at = shared.find(name);
  if (at == shared.end() || at->second.nbytes != count * 4)
    throw std::invalid_argument(std::string("the array ") + name + " of the codes is missing or of the wrong size");
  return reinterpret_cast<const float*>(at->second.data);
}

// Throws std::invalid_argument unless m, at most `most`, and bits are those of the stored codes.
inline void check_codes(const TableView& t, int64_t most) {
  const int64_t m = t.params.integer("m", 1), bits = t.params.integer("bits", 8);
  if (m < 1 || m > most || bits < 1 || bits > 16 || t.rows.at("codes").row_bytes != (m * bits + 7) / 8)
    throw std::invalid_argument("m, bits and the codes do not belong together");
}

}  // namespace embstore::EMBSTORE_ISA
