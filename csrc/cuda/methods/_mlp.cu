#include "cuda/methods/_mlp.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/map.cuh"

namespace embstore::cuda {
namespace {

// e^z for -87 <= z <= 20, and that of the nearer bound elsewhere, as csrc/methods/_mlp.h has it: 2^n by the exponent's
// bits, e^r on |r| <= ln 2 / 2 by Taylor's polynomial of degree 7, whose rest is below 2^-27.
EMBSTORE_HD float exp_to_20(float z) {
  float x = z < 20.0f ? z : 20.0f;  // a NaN is left for the product
  x = x > -87.0f ? x : -87.0f;
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float rounded = mul_add(x, 1.44269504f, shift);
  const float n = rounded - shift;
  const float r = mul_add(n, -1.42860677e-6f, mul_add(n, -0.693145752f, x));
  float p = 1.0f / 5040;
  p = mul_add(p, r, 1.0f / 720);
  p = mul_add(p, r, 1.0f / 120);
  p = mul_add(p, r, 1.0f / 24);
  p = mul_add(p, r, 1.0f / 6);
  p = mul_add(p, r, 0.5f);
  p = mul_add(p, r, 1.0f);
  p = mul_add(p, r, 1.0f);
  return p * bits_float(uint32_t(int(n) + 127) << 23);
}

// z tanh(ln(1 + e^z)).
EMBSTORE_HD float mish(float z) {
  const float e = exp_to_20(z), n = e * (e + 2.0f);
  return z * (n / (n + 2.0f));
}

// z Phi(z) with Phi by the logistic function, the "tanh" form of GELU (Hendrycks & Gimpel, 2016).
EMBSTORE_HD float gelu(float z) {
  const float e = exp_to_20(1.5957691216f * (z + 0.044715f * z * z * z));
  return z * (e / (e + 1.0f));
}

struct Layer {
  static constexpr int kRows = 4;
  static constexpr bool kSpans = false;
  int depth, width, align;
  const float *matrix, *bias;
  bool activate;
  int features, residual;

  // Sums of 128 products, and the sum of those: rounding grows with the number of terms.
  template <class Task>
  EMBSTORE_HD void sum(const Task& task, int64_t first, int count, const int*, int j, float (&sums)[kRows][4]) const {
    const Bytes<16> start = read_bytes<16>(reinterpret_cast<const uint8_t*>(bias + j), 16);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[r][c] = bits_float(start.words[c]);
    for (int k = 0; k < depth; k += 128) {
      float part[kRows][4] = {};
      task.over(first, count, j, k, smaller(depth, k + 128),
                [&](int, const float (&value)[kRows], const float (&weight)[4]) {
#pragma unroll
                  for (int r = 0; r < kRows; ++r)
#pragma unroll
                    for (int c = 0; c < 4; ++c) part[r][c] = mul_add(value[r], weight[c], part[r][c]);
                });
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[r][c] = sums[r][c] + part[r][c];
    }
  }
  EMBSTORE_HD void finish(const MapRows& rows, int64_t r, int j, float (&sum)[4]) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (activate) sum[c] = mish(sum[c]);
      if (j + c < residual) sum[c] = sum[c] + read(rows.call.codes + r * features + j + c);
    }
  }
};

struct Geglu {
  int dim;

  EMBSTORE_HD void four(const MapRows& rows, int64_t r, int j, float (&v)[4]) const {
    const auto* in = reinterpret_cast<const uint8_t*>(rows.call.in + r * 2 * dim + j);
    const int align = dim % 4 == 0 ? 16 : 4;
    const Bytes<16> values = read_bytes<16>(in, align), gates = read_bytes<16>(in + 4 * int64_t(dim), align);
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = bits_float(values.words[k]) * gelu(bits_float(gates.words[k]));
  }
};

}  // namespace

std::unique_ptr<Map> layer_map(const Table& t, int64_t number, int64_t inputs, int64_t outputs, bool activate,
                               int64_t features, int64_t residual) {
  const std::string name = std::to_string(number);
  const float* weight = shared_items<float>(t, "weight" + name, inputs * outputs);
  const float* bias = shared_items<float>(t, "bias" + name, outputs);
  const Layer layer{int(inputs),   int(outputs), alignment(weight, 4 * outputs), weight, bias, activate,
                    int(features), int(residual)};
  return std::make_unique<TaskMap<Layer, ProductTask>>(layer);
}

std::unique_ptr<Map> geglu_map(int64_t width) {
  return std::make_unique<TaskMap<Geglu, ColumnsTask>>(Geglu{int(width)});
}

}  // namespace embstore::cuda
