// Choosing scale and offset of a block, and its codes. embstore/methods/_affine.py is the same arithmetic in numpy,
// operation by operation: sums run over 16 lanes in a fixed order, so every instruction set gives the same bytes.
#pragma once
#include <vector>

#include "core/half.h"
#include "core/table.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

typedef float Lanes __attribute__((vector_size(64)));
inline constexpr int kLanes = 16;

inline Lanes lanes(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Lanes spread(float x) { return Lanes{} + x; }
inline float sum(Lanes v) {
  float a[kLanes];
  std::memcpy(a, &v, sizeof v);
  for (int half = 8; half >= 1; half /= 2)
    for (int l = 0; l < half; ++l) a[l] = a[l] + a[l + half];
  return a[0];
}

// Rounding of scale and offset to the stored dtype.
inline float next_half(float v, bool up) {
  uint16_t h = float_to_half(v);
  const bool negative = (h & 0x8000) != 0;
  if ((h & 0x7fff) == 0) return half_to_float(up ? 0x0001 : 0x8001);
  h = uint16_t(h + (negative == up ? -1 : 1));
  return half_to_float(h);
}
inline float round_near(float x, bool half) { return half ? half_to_float(float_to_half(x)) : x; }
inline float round_up(float x, bool half) {
  const float v = round_near(x, half);
  return v < x ? next_half(v, true) : v;
}
inline float round_down(float x, bool half) {
  const float v = round_near(x, half);
  return v > x ? next_half(v, false) : v;
}

struct Step {
  float scale = 0, offset = 0;
};

template <int Bits, bool Symmetric>
class BlockEncoder {
 public:
  static constexpr int kTop = Symmetric ? (1 << (Bits - 1)) - 1 : (1 << Bits) - 1;
  static constexpr int kBottom = Symmetric ? -kTop : 0;

  BlockEncoder(bool half, bool least_squares, int64_t block_size)
      : half_(half),
        least_squares_(least_squares),
        x_(size_t(block_size) + kLanes),
        codes_(size_t(block_size) + kLanes) {}

  Step fit(const float* x, int64_t n) {
    n_ = n;
    padded_ = (n + kLanes - 1) / kLanes * kLanes;
    for (int64_t j = 0; j < n; ++j) x_[size_t(j)] = x[j];
    for (int64_t j = n; j < padded_; ++j) x_[size_t(j)] = x[0];
    for (int l = 0; l < kLanes; ++l) last_[l] = l < n - (padded_ - kLanes) ? 1.0f : 0.0f;
    low_ = x[0];
    high_ = x[0];
    Lanes low = spread(x[0]), high = low, taint = spread(0);
    for (int64_t j = 0; j < padded_; j += kLanes) {
      const Lanes v = lanes(&x_[size_t(j)]);
      low = v < low ? v : low;
      high = v > high ? v : high;
      taint = taint + v * 0.0f;
    }
    if (sum(taint) != 0.0f) return {NAN_, NAN_};  // a NaN or inf anywhere: the whole block decodes to NaN
    for (int l = 0; l < kLanes; ++l) {
      low_ = low[l] < low_ ? low[l] : low_;
      high_ = high[l] > high_ ? high[l] : high_;
    }
    const Step whole = range(0.0f, true);
    if (!least_squares_ || whole.scale == 0.0f) return whole;
    best_error_ = INFINITY_;
    best_ = whole;
    for (float shrink : shrinks()) {
      Step step = shrink == 0.0f ? whole : range(shrink, false);
      for (int round = 0; round <= kRounds; ++round) {
        if (!(step.scale > 0.0f)) break;
        measure(step);
        if (round < kRounds) step = refit();
      }
    }
    return best_;
  }

  // Codes of the block last fitted, one a float.
  const float* encode(Step step) {
    const Lanes offset = spread(step.offset), inverse = spread(step.scale > 0.0f ? 1.0f / step.scale : 0.0f);
    for (int64_t j = 0; j < padded_; j += kLanes) {
      const Lanes c = quantize(lanes(&x_[size_t(j)]), offset, inverse);
      std::memcpy(&codes_[size_t(j)], &c, sizeof c);
    }
    return codes_.data();
  }

  // As encode, for a step that was not fitted: values beyond its codes, and NaN, get one that no other value has.
  const float* encode_given(Step step) {
    encode(step);
    const float inverse = 1.0f / step.scale, reach = float(kTop) + 0.5f;
    for (int64_t j = 0; j < n_; ++j) {
      const float t = x_[size_t(j)] * inverse;
      if (!(t <= reach && t >= -reach)) codes_[size_t(j)] = float(kBottom - 1);
    }
    return codes_.data();
  }

 private:
  static constexpr float NAN_ = __builtin_nanf(""), INFINITY_ = __builtin_inff();
  static constexpr int kRounds = Bits <= 4 ? 3 : 2;

  static std::vector<float> shrinks() {
    if (Bits == 2) return {0.0f, 0.08f, 0.16f, 0.24f};
    if (Bits == 4) return {0.0f, 0.03f, 0.06f, 0.09f};
    return {0.0f};
  }

  // The range taken in by `shrink` of its width at both ends; `cover` rounds so that no value is clipped.
  Step range(float shrink, bool cover) const {
    if (Symmetric) {
      const float top = (-low_ > high_ ? -low_ : high_) * (1.0f - shrink);
      const float scale = top / float(kTop);
      return {cover ? round_up(scale, half_) : round_near(scale, half_), 0.0f};
    }
    const float width = high_ - low_, low = low_ + shrink * width, high = high_ - shrink * width;
    const float offset = cover ? round_down(low, half_) : round_near(low, half_);
    const float scale = (high - offset) / float(kTop);
    return {cover ? round_up(scale, half_) : round_near(scale, half_), offset};
  }

  static Lanes quantize(Lanes x, Lanes offset, Lanes inverse) {
    Lanes t = Symmetric ? x * inverse : (x - offset) * inverse;
    const Lanes top = spread(float(kTop)), bottom = spread(float(kBottom));
    t = t > top ? top : t;
    t = t > bottom ? t : bottom;              // also takes a NaN to the bottom
    const Lanes magic = spread(12582912.0f);  // 1.5 * 2^23: rounds to the nearest integer, ties to even
    return (t + magic) - magic;
  }

  void measure(Step step) {
    const Lanes offset = spread(step.offset), scale = spread(step.scale), inverse = spread(1.0f / step.scale);
    const Lanes low = spread(low_);
    Lanes error{}, sc{}, scc{}, sy{}, syc{};
    for (int64_t j = 0; j < padded_; j += kLanes) {
      const Lanes x = lanes(&x_[size_t(j)]);
      const Lanes keep = j + kLanes < padded_ ? spread(1.0f) : lanes(last_);
      const Lanes c = quantize(x, offset, inverse) * keep;
      const Lanes y = Symmetric ? x * keep : (x - low) * keep;
      const Lanes miss = ((Symmetric ? c * scale : c * scale + offset) - x) * keep;
      error = error + miss * miss;
      sc = sc + c;
      scc = scc + c * c;
      sy = sy + y;
      syc = syc + y * c;
    }
    const float total = sum(error);
    if (total < best_error_) {
      best_error_ = total;
      best_ = step;
    }
    sc_ = sum(sc), scc_ = sum(scc), sy_ = sum(sy), syc_ = sum(syc);
  }

  // The least-squares scale and offset for the codes last measured.
  Step refit() const {
    if (Symmetric) {
      if (scc_ == 0) return {};
      return {round_near(float(syc_ / scc_), half_), 0.0f};
    }
    const double n = double(n_), spread_of_codes = n * scc_ - sc_ * sc_;
    if (spread_of_codes <= 0) return {};
    const double scale = (n * syc_ - sy_ * sc_) / spread_of_codes;
    const double offset = double(low_) + (sy_ - scale * sc_) / n;
    return {round_near(float(scale), half_), round_near(float(offset), half_)};
  }

  bool half_, least_squares_;
  std::vector<float> x_, codes_;
  int64_t n_ = 0, padded_ = 0;
  float last_[kLanes];
  float low_ = 0, high_ = 0, best_error_ = 0;
  double sc_ = 0, scc_ = 0, sy_ = 0, syc_ = 0;
  Step best_;
};

inline void put_step(uint8_t* row, int64_t index, float value, bool half) {
  if (half) {
    const uint16_t h = float_to_half(value);
    std::memcpy(row + 2 * index, &h, 2);
  } else {
    std::memcpy(row + 4 * index, &value, 4);
  }
}

template <int Bits, bool Symmetric>
void put_codes(uint8_t* row, int64_t j, const float* codes, int64_t n) {
  if constexpr (Bits == 16) {
    auto* out = reinterpret_cast<uint16_t*>(row) + j;
    for (int64_t i = 0; i < n; ++i) out[i] = uint16_t(int32_t(codes[i]));
  } else if constexpr (Bits == 8) {
    for (int64_t i = 0; i < n; ++i) row[j + i] = uint8_t(int32_t(codes[i]));
  } else {
    constexpr int per = 8 / Bits, middle = Symmetric ? 1 << (Bits - 1) : 0;
    for (int64_t i = 0; i < n; i += per) {
      int byte = 0;
      for (int64_t k = 0; k < per && i + k < n; ++k) byte |= (int(codes[i + k]) + middle) << (k * Bits);
      row[(j + i) / per] = uint8_t(byte);
    }
  }
}

template <int Bits, bool Symmetric>
void affine_encode_as(const EncodeJob& job, int64_t first, int64_t last) {
  const bool half = job.params.is("scale_dtype", "float16");
  const char* steps_name = Symmetric ? "scale" : "affine";
  uint8_t* codes = job.out.at("codes");
  const auto given = job.shared.find(steps_name);  // one for all rows
  const bool fixed = given != job.shared.end();
  const int64_t dim = job.embedding_dim, block_size = fixed ? dim : job.params.integer("block_size", dim);
  Step one;
  if (fixed) {
    std::memcpy(&one.scale, given->second.data, 4);
    if (!Symmetric) std::memcpy(&one.offset, given->second.data + 4, 4);
  }
  uint8_t* steps = fixed ? nullptr : job.out.at(steps_name);
  const int64_t code_bytes = job.row_bytes.at("codes"), step_bytes = fixed ? 0 : job.row_bytes.at(steps_name);
  const bool search = !fixed && job.params.is("range", "lse");
  BlockEncoder<Bits, Symmetric> encoder(half, search, block_size < dim ? block_size : dim);
  for (int64_t row = first; row < last; ++row)
    over_blocks(dim, block_size, [&](int64_t block, int64_t j, int64_t end) {
      const Step found = encoder.fit(job.rows + row * dim + j, end - j), step = fixed ? one : found;
      const float* found_codes = fixed && Symmetric ? encoder.encode_given(step) : encoder.encode(step);
      put_codes<Bits, Symmetric>(codes + row * code_bytes, j, found_codes, end - j);
      if (fixed) return;
      put_step(steps + row * step_bytes, Symmetric ? block : 2 * block, step.scale, half);
      if (!Symmetric) put_step(steps + row * step_bytes, 2 * block + 1, step.offset, half);
    });
}

template <int Bits>
void affine_encode(const EncodeJob& job, int64_t first, int64_t last) {
  if (job.params.integer("symmetric", 0) != 0)
    affine_encode_as<Bits, true>(job, first, last);
  else
    affine_encode_as<Bits, false>(job, first, last);
}

}  // namespace embstore::EMBSTORE_ISA
