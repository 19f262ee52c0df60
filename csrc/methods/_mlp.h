// Linear layers of a block of rows, as matrix products, and what goes between them: shared by the methods whose rows
// are an MLP of the id.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/simd.h"
#include "core/table.h"
#include "methods/_gather.h"

namespace embstore::EMBSTORE_ISA::mlp {

#if defined(EMBSTORE_ISA_REF)
using Vector = float;
using Plain = float;  // with arithmetic
inline Vector load_vector(const float* p) { return *p; }
inline void store_vector(float* p, Vector v) { *p = v; }
inline Vector mul_add(Vector a, Vector b, Vector c) { return a * b + c; }
inline Vector every(float x) { return x; }
inline Vector sum_of(Vector a, Vector b) { return a + b; }
inline Vector exp_to_20(Vector z) { return std::exp(z < 20.0f ? z : 20.0f); }
#else
using Vector = Floats;
inline Vector load_vector(const float* p) { return load(p); }
inline void store_vector(float* p, Vector v) { store(p, v); }
inline Vector every(float x) { return set1(x); }
inline Vector sum_of(Vector a, Vector b) { return add(a, b); }
// Fused where the processor can: sums are held to a bound, not to bits.
#if defined(EMBSTORE_ISA_AVX2)
inline Vector mul_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#else
inline Vector mul_add(Vector a, Vector b, Vector c) { return mul_add_exact(a, b, c); }
#endif
using Bits = int32_t __attribute__((vector_size(4 * Width)));
using Plain = float __attribute__((vector_size(4 * Width)));
// e^z for -87 <= z <= 20, and that of the nearer bound elsewhere: 2^n by the exponent's bits, e^r on |r| <= ln 2 / 2
// by Taylor's polynomial of degree 7, whose rest is below 2^-27.
inline Plain exp_to_20(Plain z) {
  Plain x = z < 20.0f ? z : Plain(set1(20.0f));  // a NaN is left for the product
  x = x > -87.0f ? x : Plain(set1(-87.0f));
  const Plain shift = Plain(set1(12582912.0f));  // 1.5 * 2^23: adding it rounds to an integer
  const Plain rounded = Plain(mul_add(Floats(x), set1(1.44269504f), Floats(shift)));
  const Plain n = rounded - shift;
  const Plain r = Plain(mul_add(Floats(n), set1(-1.42860677e-6f), mul_add(Floats(n), set1(-0.693145752f), Floats(x))));
  Floats p = set1(1.0f / 5040);
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = mul_add(p, Floats(r), set1(c));
  const Bits power = ((Bits)rounded - (Bits)shift + 127) << 23;
  return Plain(p) * (Plain)power;
}
#endif

// z tanh(ln(1 + e^z)); a NaN is left for the product.
inline Vector mish(Vector given) {
  const Plain z = Plain(given), e = exp_to_20(z), n = e * (e + 2.0f);
  return Vector(z * (n / (n + 2.0f)));
}

// z Phi(z) with Phi by the logistic function, the "tanh" form of GELU (Hendrycks & Gimpel, 2016).
inline Vector gelu(Vector given) {
  const Plain z = Plain(given), e = exp_to_20(1.5957691216f * (z + 0.044715f * z * z * z));
  return Vector(z * (e / (e + 1.0f)));
}

// to[j] = x[j] gelu(x[width + j]) for j < width; `to` may be at or below x.
inline void geglu(const float* x, int64_t width, float* to) {
  constexpr int kStep = sizeof(Vector) / sizeof(float);
  for (int64_t j = 0; j < width; j += kStep) {
    const int64_t count = std::min<int64_t>(kStep, width - j);
    float value[kStep] = {}, gate[kStep] = {};
    std::memcpy(value, x + j, size_t(count) * 4);
    std::memcpy(gate, x + width + j, size_t(count) * 4);
    store_vector(value, Vector(Plain(load_vector(value)) * Plain(gelu(load_vector(gate)))));
    std::memcpy(to + j, value, size_t(count) * 4);
  }
}

constexpr int kColumns = 2 * Width < 16 ? 16 : 2 * Width;  // of a panel of weights
constexpr int kVectors = kColumns / Width;
constexpr int kRows = Width >= 16 ? 12 : Width == 1 ? 1 : 4;  // of a tile: kRows * kVectors sums stay in registers

struct Layer {
  int64_t inputs, outputs;
  const float *weight, *bias;
};

// Layer `number` of a table: arrays weight<number> (inputs, outputs) and bias<number> (outputs).
inline Layer layer_of(const TableView& t, int64_t number, int64_t inputs, int64_t outputs) {
  const std::string name = std::to_string(number);
  const auto* weight = shared_rows(t, ("weight" + name).c_str(), inputs, 4 * outputs);
  const auto* bias = shared_rows(t, ("bias" + name).c_str(), outputs, 4);
  return {inputs, outputs, reinterpret_cast<const float*>(weight), reinterpret_cast<const float*>(bias)};
}

// Floats that `apply` needs for a panel of the weights of up to `inputs` inputs.
inline int64_t panel_floats(int64_t inputs) { return inputs * kColumns; }

// Every sum goes over the inputs in order, whatever the tile: a row does not depend on the block it is in. Sums of
// 128 products are added up, which rounds less than one long sum: 5e-7 to 6e-7 of the largest value in place of 8e-7,
// for 1024 hashes.
template <int R>
inline void tile(const Layer& layer, const float* x, const float* panel, const float* bias, float* y, int64_t columns,
                 bool activate) {
  float totals[R][kColumns];
  for (int r = 0; r < R; ++r) std::memcpy(totals[r], bias, sizeof totals[r]);
  const int64_t inputs = layer.inputs;
  for (int64_t k = 0; k < inputs;) {
    Vector sums[R][kVectors];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kVectors; ++v) sums[r][v] = every(0.0f);
    for (const int64_t end = std::min<int64_t>(inputs, k + 128); k < end; ++k, panel += kColumns) {
      Vector weights[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) weights[v] = load_vector(panel + v * Width);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vector value = every(x[r * inputs + k]);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[r][v] = mul_add(value, weights[v], sums[r][v]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kVectors; ++v) {
        float* total = totals[r] + v * Width;
        store_vector(total, sum_of(load_vector(total), sums[r][v]));
      }
  }
  for (int r = 0; r < R; ++r) {
    float row[kColumns];
    for (int v = 0; v < kVectors; ++v) {
      const Vector value = load_vector(totals[r] + v * Width);
      store_vector(row + v * Width, activate ? mish(value) : value);
    }
    std::memcpy(y + r * layer.outputs, row, size_t(columns) * 4);
  }
}

// y (n, outputs) = x (n, inputs) times weight plus bias, through Mish where asked. A panel of columns at a
// time is copied to lie in a row: it stays in the second-level cache for all tiles, and its columns do not fight for
// the same lines.
inline void apply(const Layer& layer, const float* x, int64_t n, float* y, bool activate, float* panel) {
  for (int64_t j = 0; j < layer.outputs; j += kColumns) {
    const int64_t columns = std::min<int64_t>(kColumns, layer.outputs - j);
    for (int64_t k = 0; k < layer.inputs; ++k) {
      float* to = panel + k * kColumns;
      std::memcpy(to, layer.weight + k * layer.outputs + j, size_t(columns) * 4);
      std::fill(to + columns, to + kColumns, 0.0f);
    }
    float bias[kColumns] = {};
    std::memcpy(bias, layer.bias + j, size_t(columns) * 4);
    int64_t i = 0;
    for (; i + kRows <= n; i += kRows)
      tile<kRows>(layer, x + i * layer.inputs, panel, bias, y + i * layer.outputs + j, columns, activate);
    for (; i < n; ++i) tile<1>(layer, x + i * layer.inputs, panel, bias, y + i * layer.outputs + j, columns, activate);
  }
}

}  // namespace embstore::EMBSTORE_ISA::mlp
