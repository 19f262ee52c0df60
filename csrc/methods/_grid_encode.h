// Choosing the scale of a row and its codes. embstore/methods/_grid.py is the same arithmetic in numpy, operation by
// operation: sums run over 16 lanes in a fixed order, so every instruction set gives the same bytes.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "methods/_affine_encode.h"

namespace embstore::EMBSTORE_ISA {

typedef int32_t IntLanes __attribute__((vector_size(64)));

// How levels lie, and where the search for the scale starts: rabitq, turboquant, binary.
enum class Grid { kUniform, kNormal, kSign };

inline void pack_codes(const uint8_t* codes, int64_t dim, int bits, uint8_t* out) {
  for (int64_t j = 0; j < dim; j += 8) {
    const int64_t n = std::min<int64_t>(8, dim - j);
    uint64_t word = 0;
    for (int64_t k = 0; k < n; ++k) word |= uint64_t(codes[j + k]) << (k * bits);
    std::memcpy(out + j / 8 * bits, &word, size_t((n * bits + 7) / 8));
  }
}

template <Grid Kind>
class GridEncoder {
 public:
  explicit GridEncoder(const EncodeJob& job)
      : dim_(job.embedding_dim),
        padded_((dim_ + kLanes - 1) / kLanes * kLanes),
        bits_(int(job.params.integer("bits", 1))),
        half_(1 << (bits_ - 1)),
        exact_(job.params.is("search", "exact")),
        levels_(reinterpret_cast<const float*>(job.shared.at("levels").data)),
        thresholds_(reinterpret_cast<const float*>(job.shared.at("thresholds").data)),
        trials_(reinterpret_cast<const float*>(job.shared.at("trials").data)),
        trial_count_(job.shared.at("trials").nbytes / 4),
        size_(size_t(padded_)),
        index_(size_t(padded_)),
        codes_(size_t(padded_)) {
    for (int l = 0; l < kLanes; ++l) last_[l] = l < dim_ - (padded_ - kLanes) ? 1.0f : 0.0f;
  }

  // The scale of a row; its packed codes go to `out`.
  float encode(const float* x, uint8_t* out) {
    float top = 0.0f, taint = 0.0f;
    for (int64_t j = 0; j < dim_; ++j) {
      top = std::fabs(x[j]) > top ? std::fabs(x[j]) : top;
      taint += x[j] * 0.0f;
    }
    const bool bad = taint != 0.0f;  // NaN is not equal either
    int exponent = 0;
    if (!bad) std::frexp(top, &exponent);
    const int shift = exponent >> 1;
    const float forth = std::ldexp(1.0f, -shift), back = std::ldexp(1.0f, shift);
    for (int64_t j = 0; j < dim_; ++j) size_[size_t(j)] = bad ? 0.0f : (std::fabs(x[j]) * forth) * forth;
    const float scale = exact_ && Kind == Grid::kUniform ? sweep() : choose();
    for (int64_t j = 0; j < dim_; ++j) {
      const int index = index_[size_t(j)];
      const bool negative = !bad && size_[size_t(j)] > 0.0f && x[j] < 0.0f;
      codes_[size_t(j)] = uint8_t(negative ? half_ - 1 - index : half_ + index);
    }
    pack_codes(codes_.data(), dim_, bits_, out);
    return bad ? __builtin_nanf("") : (scale * back) * back;
  }

 private:
  float start() const {
    if (Kind == Grid::kSign) return 1.0f;
    Lanes acc{};
    for (int64_t j = 0; j < padded_; j += kLanes) {
      const Lanes s = lanes(&size_[size_t(j)]);
      if (Kind == Grid::kUniform)
        acc = s > acc ? s : acc;
      else
        acc = acc + s * s;
    }
    if (Kind == Grid::kNormal) return std::sqrt(sum(acc) / float(dim_));
    float top = 0.0f;
    for (int l = 0; l < kLanes; ++l) top = acc[l] > top ? acc[l] : top;
    return top / float(half_);
  }

  Lanes level(Lanes scaled) const {
    if (Kind == Grid::kUniform) {
      const Lanes top = spread(float(half_ - 1));
      scaled = scaled < top ? scaled : top;
      return __builtin_convertvector(__builtin_convertvector(scaled, IntLanes), Lanes) + 0.5f;
    }
    Lanes y = spread(levels_[0]);
    for (int k = 0; k + 1 < half_; ++k) y = scaled > spread(thresholds_[k]) ? spread(levels_[k + 1]) : y;
    return y;
  }

  int level_index(float scaled) const {
    if (Kind == Grid::kUniform) return int(std::min(scaled, float(half_ - 1)));
    int index = 0;
    for (int k = 0; k + 1 < half_; ++k) index += thresholds_[k] < scaled ? 1 : 0;
    return index;
  }

  float choose() {
    float from = start(), best = -1.0f, scale = 0.0f, inverse = 1.0f;
    from = from > 0.0f ? from : 1.0f;
    for (int64_t t = 0; t < trial_count_; ++t) {
      const float inv = 1.0f / (from * trials_[t]);
      Lanes along_sum{}, length_sum{};
      for (int64_t j = 0; j < padded_; j += kLanes) {
        const Lanes s = lanes(&size_[size_t(j)]);
        const Lanes y = level(s * spread(inv)) * (j + kLanes < padded_ ? spread(1.0f) : lanes(last_));
        along_sum = along_sum + s * y;
        length_sum = length_sum + y * y;
      }
      const float along = sum(along_sum), length = sum(length_sum), gain = (along / length) * along;
      if (gain > best) {
        best = gain;
        scale = along / length;
        inverse = inv;
      }
    }
    for (int64_t j = 0; j < dim_; ++j) index_[size_t(j)] = level_index(size_[size_t(j)] * inverse);
    return scale;
  }

  // As the grid shrinks, each value steps up at multiples of 1 / value: every grid point that is nearest for some
  // scale.
  float sweep() {
    const int64_t steps = half_ - 1;
    crossings_.clear();
    double along = 0.0, length = double(dim_) * 0.25;
    for (int64_t j = 0; j < dim_; ++j) {
      const double s = double(size_[size_t(j)]);
      along += s * 0.5;
      for (int64_t k = 1; k <= steps; ++k) crossings_.push_back({double(k) / s, j * steps + k - 1});
    }
    std::sort(crossings_.begin(), crossings_.end());
    double best = (along / length) * along, scale = along / length;
    size_t count = 0;
    for (size_t c = 0; c < crossings_.size(); ++c) {
      along += double(size_[size_t(crossings_[c].second / steps)]);
      length += 2.0 * double(crossings_[c].second % steps + 1);
      if ((along / length) * along > best) {
        best = (along / length) * along;
        scale = along / length;
        count = c + 1;
      }
    }
    std::fill(index_.begin(), index_.end(), 0);
    for (size_t c = 0; c < count; ++c) ++index_[size_t(crossings_[c].second / steps)];
    return float(scale);
  }

  int64_t dim_, padded_;
  int bits_, half_;
  bool exact_;
  const float *levels_, *thresholds_, *trials_;
  int64_t trial_count_;
  std::vector<float> size_;
  std::vector<int> index_;
  std::vector<uint8_t> codes_;
  std::vector<std::pair<double, int64_t>> crossings_;
  float last_[kLanes];
};

template <Grid Kind>
void grid_encode(const EncodeJob& job, int64_t first, int64_t last) {
  GridEncoder<Kind> encoder(job);
  const bool scaled = job.out.count("scale") != 0, half = job.params.is("scale_dtype", "float16");
  uint8_t* codes = job.out.at("codes");
  uint8_t* scales = scaled ? job.out.at("scale") : nullptr;
  const int64_t code_bytes = job.row_bytes.at("codes");
  for (int64_t row = first; row < last; ++row) {
    const float scale = encoder.encode(job.rows + row * job.embedding_dim, codes + row * code_bytes);
    if (scaled) put_step(scales, row, scale, half);
  }
}

}  // namespace embstore::EMBSTORE_ISA
