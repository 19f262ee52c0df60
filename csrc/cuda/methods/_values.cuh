// Values as methods of rows in several places store them: which kind is a branch that all threads take alike.
#pragma once
#include <stdexcept>
#include <string>

#include "cuda/core/bytes.cuh"
#include "cuda/core/kernel.h"

namespace embstore::cuda {

enum class Stored { kFloat, kHalf, kInt8 };

// `otherwise`: what a method takes where its config does not name one of the others.
inline Stored stored_kind(const Params& params, const char* field, Stored otherwise) {
  if (params.is(field, "float32")) return Stored::kFloat;
  if (params.is(field, "float16")) return Stored::kHalf;
  return params.is(field, "int8") ? Stored::kInt8 : otherwise;
}
EMBSTORE_HD int stored_bytes(Stored kind) { return kind == Stored::kFloat ? 4 : kind == Stored::kHalf ? 2 : 1; }

// Value i from `at` on.
EMBSTORE_HD float stored_value(const uint8_t* at, int64_t i, Stored kind) {
  if (kind == Stored::kFloat) return bits_float(read<uint32_t>(at + 4 * i));
  if (kind == Stored::kHalf) return widen(read<uint16_t>(at + 2 * i));
  return float(int8_t(read<uint8_t>(at + i)));
}

// Four values as they were loaded.
struct FourStored {
  uint32_t words[4];

  EMBSTORE_HD float value(int k, Stored kind) const {
    if (kind == Stored::kFloat) return bits_float(words[k]);
    if (kind == Stored::kHalf) return widen(uint16_t(words[k / 2] >> (k % 2 * 16)));
    return float(int8_t(words[0] >> (k * 8)));
  }
};

// `align`: a power of two that every address of the run is a multiple of.
EMBSTORE_HD FourStored read_four(const uint8_t* at, Stored kind, int align) {
  FourStored four = {};
  if (kind == Stored::kFloat) {
    const Bytes<16> got = read_bytes<16>(at, align);
#pragma unroll
    for (int k = 0; k < 4; ++k) four.words[k] = got.words[k];
  } else if (kind == Stored::kHalf) {
    const Bytes<8> got = read_bytes<8>(at, align);
    four.words[0] = got.words[0], four.words[1] = got.words[1];
  } else {
    four.words[0] = read_bytes<4>(at, align).words[0];
  }
  return four;
}

}  // namespace embstore::cuda
