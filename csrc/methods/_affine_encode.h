// Choosing scale and offset of a block, and its codes: the arithmetic of _affine_steps.h with 16 lanes as one vector.
// embstore/methods/_affine.py is the same in numpy, operation by operation, so every instruction set gives the same
// bytes.
#pragma once
#include <vector>

#include "core/half.h"
#include "core/table.h"
#include "methods/_affine_steps.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

typedef float Lanes __attribute__((vector_size(64)));

inline Lanes lanes(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Lanes spread(float x) { return spread_to<Lanes>(x); }
inline float sum(Lanes v) {
  float a[kLanes];
  std::memcpy(a, &v, sizeof v);
  return sum_lanes(a);
}

template <int Bits, bool Symmetric>
class BlockEncoder {
  using Steps = AffineSteps<Bits, Symmetric>;

 public:
  BlockEncoder(bool half, bool least_squares, int64_t block_size)
      : half_(half),
        least_squares_(least_squares),
        x_(size_t(block_size) + kLanes),
        codes_(size_t(block_size) + kLanes) {}

  Step fit(const float* x, int64_t n) {
    n_ = n;
    padded_ = (n + kLanes - 1) / kLanes * kLanes;
    float* const own = x_.data();  // for all that the compiler knows, storing a float may move a member
    for (int64_t j = 0; j < n; ++j) own[j] = x[j];
    for (int64_t j = n; j < padded_; ++j) own[j] = x[0];
    for (int l = 0; l < kLanes; ++l) last_[l] = l < n - (padded_ - kLanes) ? 1.0f : 0.0f;
    float least = x[0], most = x[0];
    Lanes low = spread(x[0]), high = low, taint = spread(0);
    for (int64_t j = 0; j < padded_; j += kLanes) {
      const Lanes v = lanes(own + j);
      low = v < low ? v : low;
      high = v > high ? v : high;
      taint = taint + v * 0.0f;
    }
    if (sum(taint) != 0.0f) return {NAN_, NAN_};  // a NaN or inf anywhere: the whole block decodes to NaN
    for (int l = 0; l < kLanes; ++l) {
      least = low[l] < least ? low[l] : least;
      most = high[l] > most ? high[l] : most;
    }
    StepSearch<Bits, Symmetric> search;
    search.begin(least, most, half_, least_squares_);
    while (search.running) search.measured(measure(search.now, least), n_);
    return search.best;
  }

  // Codes of the block last fitted, one a float.
  const float* encode(Step step) {
    const Lanes offset = spread(step.offset), inverse = spread(Steps::inverse(step.scale));
    const float* const own = x_.data();
    float* const codes = codes_.data();
    for (int64_t j = 0, end = padded_; j < end; j += kLanes) {
      const Lanes c = Steps::quantize(lanes(own + j), offset, inverse);
      std::memcpy(codes + j, &c, sizeof c);
    }
    return codes;
  }

  // As encode, for a step that was not fitted.
  const float* encode_given(Step step) {
    encode(step);
    for (int64_t j = 0; j < n_; ++j)
      if (Steps::beyond(x_[size_t(j)], step.scale)) codes_[size_t(j)] = float(Steps::kBottom - 1);
    return codes_.data();
  }

 private:
  static constexpr float NAN_ = __builtin_nanf("");

  BlockSums<float> measure(Step step, float least) const {
    const Lanes offset = spread(step.offset), scale = spread(step.scale), inverse = spread(1.0f / step.scale);
    const Lanes low = spread(least);
    BlockSums<Lanes> sums;
    for (int64_t j = 0; j < padded_; j += kLanes) {
      const Lanes keep = j + kLanes < padded_ ? spread(1.0f) : lanes(last_);
      Steps::measure(lanes(&x_[size_t(j)]), keep, low, scale, offset, inverse, sums);
    }
    return {sum(sums.error), sum(sums.sc), sum(sums.scc), sum(sums.sy), sum(sums.syc)};
  }

  bool half_, least_squares_;
  std::vector<float> x_, codes_;
  int64_t n_ = 0, padded_ = 0;
  float last_[kLanes];
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
