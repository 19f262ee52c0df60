// How the step of a block is chosen and its values become codes, apart from the loops: host code does 16 lanes as one
// vector (_affine_encode.h), a device one lane a thread (csrc/cuda/methods/_affine_encode.cuh). Sums run over 16 lanes
// in a fixed order, so both give the same bytes as embstore/methods/_affine.py.
#pragma once
#include "core/both.h"
#include "core/half.h"

namespace embstore::EMBSTORE_ISA {

inline constexpr int kLanes = 16;

// x in every lane of a V: a float, or a vector of them.
template <class V>
EMBSTORE_BOTH V spread_to(float x) {
  return V{} + x;
}

// The sum of 16 lanes; `a` is used up.
EMBSTORE_BOTH float sum_lanes(float (&a)[kLanes]) {
  for (int half = 8; half >= 1; half /= 2)
    for (int l = 0; l < half; ++l) a[l] = a[l] + a[l + half];
  return a[0];
}

// Rounding of scale and offset to the stored dtype.
EMBSTORE_BOTH float next_half(float v, bool up) {
  uint16_t h = float_to_half(v);
  const bool negative = (h & 0x8000) != 0;
  if ((h & 0x7fff) == 0) return half_to_float(up ? 0x0001 : 0x8001);
  h = uint16_t(h + (negative == up ? -1 : 1));
  return half_to_float(h);
}
EMBSTORE_BOTH float round_near(float x, bool half) { return half ? half_to_float(float_to_half(x)) : x; }
EMBSTORE_BOTH float round_up(float x, bool half) {
  const float v = round_near(x, half);
  return v < x ? next_half(v, true) : v;
}
EMBSTORE_BOTH float round_down(float x, bool half) {
  const float v = round_near(x, half);
  return v > x ? next_half(v, false) : v;
}

struct Step {
  float scale = 0, offset = 0;
};

// What is added up over a block: by lane, and over all of them.
template <class V>
struct BlockSums {
  V error{}, sc{}, scc{}, sy{}, syc{};
};

template <int Bits, bool Symmetric>
struct AffineSteps {
  static constexpr int kTop = Symmetric ? (1 << (Bits - 1)) - 1 : (1 << Bits) - 1;
  static constexpr int kBottom = Symmetric ? -kTop : 0;
  // The search for the step of least squared error starts from the range taken in by several shares of its width, and
  // refits each so many times.
  static constexpr int kShrinks = Bits <= 4 ? 4 : 1, kRounds = Bits <= 4 ? 3 : 2;

  EMBSTORE_BOTH static float shrink(int k) {
    if (Bits == 2) return k == 0 ? 0.0f : k == 1 ? 0.08f : k == 2 ? 0.16f : 0.24f;
    if (Bits == 4) return k == 0 ? 0.0f : k == 1 ? 0.03f : k == 2 ? 0.06f : 0.09f;
    return 0.0f;
  }

  // The range low … high taken in by `shrink` of its width at both ends; `cover` rounds so that no value is clipped.
  EMBSTORE_BOTH static Step range(float low, float high, float shrink, bool cover, bool half) {
    if (Symmetric) {
      const float top = (-low > high ? -low : high) * (1.0f - shrink);
      const float scale = top / float(kTop);
      return {cover ? round_up(scale, half) : round_near(scale, half), 0.0f};
    }
    const float width = high - low, inner_low = low + shrink * width, inner_high = high - shrink * width;
    const float offset = cover ? round_down(inner_low, half) : round_near(inner_low, half);
    const float scale = (inner_high - offset) / float(kTop);
    return {cover ? round_up(scale, half) : round_near(scale, half), offset};
  }

  // Integer-valued codes; `inverse` is 1 / scale, or 0.
  template <class V>
  EMBSTORE_BOTH static V quantize(V x, V offset, V inverse) {
    V t = Symmetric ? x * inverse : (x - offset) * inverse;
    const V top = spread_to<V>(float(kTop)), bottom = spread_to<V>(float(kBottom));
    t = t > top ? top : t;
    t = t > bottom ? t : bottom;                // also takes a NaN to the bottom
    const V magic = spread_to<V>(12582912.0f);  // 1.5 * 2^23: rounds to the nearest integer, ties to even
    return (t + magic) - magic;
  }
  EMBSTORE_BOTH static float inverse(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

  // Whether a value is beyond the codes of a step that was not fitted, or NaN: it gets one that no other value has.
  EMBSTORE_BOTH static bool beyond(float x, float scale) {
    const float t = x * (1.0f / scale), reach = float(kTop) + 0.5f;
    return !(t <= reach && t >= -reach);
  }

  // Adds values of the block, those that `keep` is 1 for, to the sums of a step that has a scale.
  template <class V>
  EMBSTORE_BOTH static void measure(V x, V keep, V low, V scale, V offset, V inverse, BlockSums<V>& sums) {
    const V c = quantize(x, offset, inverse) * keep;
    const V y = Symmetric ? x * keep : (x - low) * keep;
    const V miss = ((Symmetric ? c * scale : c * scale + offset) - x) * keep;
    sums.error = sums.error + miss * miss;
    sums.sc = sums.sc + c;
    sums.scc = sums.scc + c * c;
    sums.sy = sums.sy + y;
    sums.syc = sums.syc + y * c;
  }

  // The least-squares scale and offset for the codes measured, of n values; no scale where there are none.
  EMBSTORE_BOTH static Step refit(const BlockSums<float>& sums, int64_t count, float low, bool half) {
    const double sc = sums.sc, scc = sums.scc, sy = sums.sy, syc = sums.syc;
    if (Symmetric) {
      if (scc == 0) return {};
      return {round_near(float(syc / scc), half), 0.0f};
    }
    const double n = double(count), spread_of_codes = n * scc - sc * sc;
    if (spread_of_codes <= 0) return {};
    const double scale = (n * syc - sy * sc) / spread_of_codes;
    const double offset = double(low) + (sy - scale * sc) / n;
    return {round_near(float(scale), half), round_near(float(offset), half)};
  }
};

// The search, to be told the sums of each step it asks for. `low` and `high` of a block without NaN and infinities.
template <int Bits, bool Symmetric>
struct StepSearch {
  using Steps = AffineSteps<Bits, Symmetric>;
  Step best, now;
  float best_error = 0, low = 0, high = 0;
  int shrink = 0, round = 0;
  bool half = false, running = false;

  EMBSTORE_BOTH void begin(float from, float to, bool as_half, bool least_squares) {
    low = from, high = to, half = as_half, shrink = 0, round = 0;
    best = now = Steps::range(low, high, 0.0f, true, half);
    best_error = bits_to_float(0x7f800000);
    running = least_squares && best.scale != 0.0f && now.scale > 0.0f;
  }

  // The sums of `now`; `now` is the next step to measure, as long as it is `running`.
  EMBSTORE_BOTH void measured(const BlockSums<float>& sums, int64_t count) {
    if (sums.error < best_error) {
      best_error = sums.error;
      best = now;
    }
    if (round < Steps::kRounds) {
      ++round;
      now = Steps::refit(sums, count, low, half);
      if (now.scale > 0.0f) return;
    }
    // Each start ends at its last refit, or at the first without a scale.
    for (round = 0; ++shrink < Steps::kShrinks;) {
      now = Steps::range(low, high, Steps::shrink(shrink), false, half);
      if (now.scale > 0.0f) return;
    }
    running = false;
  }
};

}  // namespace embstore::EMBSTORE_ISA
