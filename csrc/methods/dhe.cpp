#include <cmath>
#include <memory>
#include <stdexcept>

#include "methods/_gather.h"
#include "methods/_hashing.h"
#include "skeletons/block_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

#if defined(EMBSTORE_ISA_REF)
using Vector = float;
inline Vector load_vector(const float* p) { return *p; }
inline void store_vector(float* p, Vector v) { *p = v; }
inline Vector mul_add(Vector a, Vector b, Vector c) { return a * b + c; }
inline Vector every(float x) { return x; }
inline Vector sum_of(Vector a, Vector b) { return a + b; }
inline Vector mish(Vector z) {
  const float e = std::exp(z < 20.0f ? z : 20.0f), n = e * (e + 2.0f);
  return z * (n / (n + 2.0f));
}
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
using Lanes = int32_t __attribute__((vector_size(4 * Width)));
using Plain = float __attribute__((vector_size(4 * Width)));
// e^z for -87 <= z <= 20: 2^n by the exponent's bits, e^r on |r| <= ln 2 / 2
// by Taylor's polynomial of degree 7, whose rest is below 2^-27.
inline Vector mish(Vector given) {
  const Plain z = (Plain)given;
  Plain x = z < 20.0f ? z : Plain(set1(20.0f));  // a NaN is left for the product
  x = x > -87.0f ? x : Plain(set1(-87.0f));
  const Plain shift = Plain(set1(12582912.0f));  // 1.5 * 2^23: adding it rounds to an integer
  const Plain rounded = Plain(mul_add(Floats(x), set1(1.44269504f), Floats(shift)));
  const Plain n = rounded - shift;
  const Plain r = Plain(mul_add(Floats(n), set1(-1.42860677e-6f), mul_add(Floats(n), set1(-0.693145752f), Floats(x))));
  Floats p = set1(1.0f / 5040);
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = mul_add(p, Floats(r), set1(c));
  const Lanes power = ((Lanes)rounded - (Lanes)shift + 127) << 23;
  const Plain e = Plain(p) * (Plain)power, m = e * (e + 2.0f);
  return Floats(z * (m / (m + 2.0f)));
}
#endif

constexpr int kColumns = 2 * Width < 16 ? 16 : 2 * Width;  // of a panel of weights
constexpr int kVectors = kColumns / Width;
constexpr int kRows = Width >= 16 ? 12 : Width == 1 ? 1 : 4;  // of a tile: kRows * kVectors sums stay in registers

struct Layer {
  int64_t inputs, outputs;
  const float *weight, *bias;
};

struct DheDecode {
  int64_t dim = 0, block = 96;
  int64_t hashes, width = 1;
  bool gaussian;
  std::vector<Layer> layers;
  std::vector<uint64_t> slopes, offsets;

  explicit DheDecode(const TableView& t)
      : dim(t.embedding_dim), hashes(t.params.integer("hashes", 1)), gaussian(t.params.is("encoding", "gaussian")) {
    width = t.params.integer("width", 1);
    const int64_t hidden = t.params.integer("layers", 1), seed = t.params.integer("seed", 0);
    constexpr int64_t kMost = 1 << 16;
    if (hashes < 1 || width < 1 || hidden < 1 || hashes > kMost || width > kMost || hidden > 16)
      throw std::invalid_argument("hashes, width and layers must be positive, and at most 65536, 65536 and 16");
    if (gaussian && hashes % 2) throw std::invalid_argument("hashes must be even for Gaussian encodings");
    for (int64_t i = 0; i <= hidden; ++i) {
      const int64_t inputs = i == 0 ? hashes : width, outputs = i == hidden ? dim : width;
      const std::string number = std::to_string(i);
      const auto* weight = shared_rows(t, ("weight" + number).c_str(), inputs, 4 * outputs);
      const auto* bias = shared_rows(t, ("bias" + number).c_str(), outputs, 4);
      layers.push_back({inputs, outputs, reinterpret_cast<const float*>(weight), reinterpret_cast<const float*>(bias)});
    }
    for (int64_t j = 0; j < hashes; ++j) {
      slopes.push_back(scramble(2 * j, seed) | 1);
      offsets.push_back(scramble(2 * j + 1, seed));
    }
  }

  void rows(const int64_t* ids, int64_t n, float* out) const {
    const int64_t longest = std::max(hashes, width);
    float* a = scratch<DheDecode>(2 * block * longest + longest * kColumns);
    float *b = a + block * longest, *panel = b + block * longest;
    for (int64_t i = 0; i < n; ++i) encode(ids[i], a + i * hashes);
    for (size_t i = 0; i < layers.size(); ++i) {
      const bool last = i + 1 == layers.size();
      apply(layers[i], a, n, last ? out : b, !last, panel);
      std::swap(a, b);
    }
  }

 private:
  void encode(int64_t id, float* x) const {
    const uint64_t* slope = slopes.data();
    const uint64_t* offset = offsets.data();
    if (!gaussian) {
      for (int64_t j = 0; j < hashes; ++j) {
        const uint64_t hashed = (uint64_t(id) * slope[j] + offset[j]) >> 40;
        x[j] = float(int32_t(2 * hashed + 1) - (1 << 24)) * (1.0f / (1 << 24));
      }
      return;
    }
    for (int64_t j = 0; j < hashes; j += 2) {
      const uint64_t h = (uint64_t(id) * slope[j] + offset[j]) >> 40;
      const uint64_t g = (uint64_t(id) * slope[j + 1] + offset[j + 1]) >> 40;
      const double u = double(2 * h + 1) / (1 << 25), angle = 6.283185307179586 * (double(2 * g + 1) / (1 << 25));
      const double radius = std::sqrt(-2 * std::log(u));
      x[j] = float(radius * std::cos(angle));
      x[j + 1] = float(radius * std::sin(angle));
    }
  }

  // y (n, outputs) = x (n, inputs) times weight plus bias. A panel of columns at a time is copied to lie in a row: it
  // stays in the second-level cache for all tiles, and its columns do not fight for the same lines.
  void apply(const Layer& layer, const float* x, int64_t n, float* y, bool activate, float* panel) const {
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
      for (; i < n; ++i)
        tile<1>(layer, x + i * layer.inputs, panel, bias, y + i * layer.outputs + j, columns, activate);
    }
  }

  // Every sum goes over the inputs in order, whatever the tile: a row does not depend on the block it is in. Sums of
  // 128 products are added up, which rounds less than one long sum: 5e-7 to 6e-7 of the largest value in place of 8e-7,
  // for 1024 hashes.
  template <int R>
  static void tile(const Layer& layer, const float* x, const float* panel, const float* bias, float* y, int64_t columns,
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
};

std::unique_ptr<Kernel> dhe_kernel(const TableView& table) {
  return std::make_unique<BlockKernel<DheDecode>>(DheDecode(table));
}

}  // namespace
EMBSTORE_REGISTER(dhe, dhe_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
