// The code of one value of dynamic8 and nf4: of host code and devices.
#pragma once
#include "core/both.h"

namespace embstore::EMBSTORE_ISA {

// A value in units of its scale. Dividing rather than multiplying by the inverse: a subnormal scale has no finite one.
EMBSTORE_BOTH float codebook_value(float x, float scale) { return scale > 0.0f ? x / scale : 0.0f; }

// The number of midpoints below the value; there is one less than the table has entries.
template <int Table>
EMBSTORE_BOTH int codebook_code(const float* midpoints, float value) {
  int code = 0;
  for (int step = Table / 2; step > 0; step /= 2) code += midpoints[code + step - 1] < value ? step : 0;
  return code;
}

}  // namespace embstore::EMBSTORE_ISA
