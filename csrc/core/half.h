// IEEE half floats and bfloat16 in plain integers: the same result on every machine, instruction set and device.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/both.h"

namespace embstore::EMBSTORE_ISA {

EMBSTORE_BOTH float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

EMBSTORE_BOTH uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

EMBSTORE_BOTH float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t rest = half & 0x7fff;
  if (rest >= 0x7c00)
    return bits_to_float(sign | 0x7f800000 | ((rest & 0x3ff) << 13) | ((rest & 0x3ff) ? 0x400000 : 0));
  if (rest >= 0x400) return bits_to_float(sign | ((rest << 13) + 0x38000000));
  const float magnitude = float(rest) * 5.9604644775390625e-08f;  // subnormal: rest * 2^-24
  return sign ? -magnitude : magnitude;
}

// Round to nearest, ties to even.
EMBSTORE_BOTH uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  const uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return uint16_t(sign | 0x7e00 | ((rest >> 13) & 0x3ff));
  if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (rest >= 0x38800000) return uint16_t(sign | ((rest - 0x38000000 + 0xfff + ((rest >> 13) & 1)) >> 13));
  // Subnormal halves: adding 0.5 leaves the rounded multiple of 2^-24 in the low mantissa bits.
  const float shifted = bits_to_float(rest) + 0.5f;
  return uint16_t(sign | (float_to_bits(shifted) - 0x3f000000));
}

// The upper half of a float, rounded to nearest, ties to even; a NaN stays one.
EMBSTORE_BOTH uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace embstore::EMBSTORE_ISA
