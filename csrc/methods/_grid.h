// rabitq, turboquant, binary: value = level of the code * scale of the row, one rounding.
#pragma once
#include "core/unpack.h"
#include "methods/_grid_encode.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

enum class RowScale { kNone, kHalf, kFloat };

inline RowScale row_scale(const Params& p) {
  return p.is("scale_dtype", "float16")   ? RowScale::kHalf
         : p.is("scale_dtype", "float32") ? RowScale::kFloat
                                          : RowScale::kNone;
}

inline float read_scale(const uint8_t* at, RowScale kind) {
  if (kind == RowScale::kNone) return 1.0f;
  if (kind == RowScale::kFloat) {
    float scale;
    std::memcpy(&scale, at, 4);
    return scale;
  }
  uint16_t half;
  std::memcpy(&half, at, 2);
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  return _cvtsh_ss(half);
#else
  return half_to_float(half);
#endif
}

#if !defined(EMBSTORE_ISA_REF)
// The levels times a row's scale, picked by code. Up to 4 bits they lie in registers, repeated so that bits above a
// code do not matter; from 5 bits on levels are uniform and computed.
template <int Bits>
class ScaledLevels {
 public:
  ScaledLevels(const float* table, float scale) {
    if constexpr (Bits >= 5) {
      low_ = set1(scale);
      return;
    }
#if defined(EMBSTORE_ISA_AVX512)
    low_ = mul(load(table), set1(scale));
#elif defined(EMBSTORE_ISA_AVX2)
    low_ = mul(load(table), set1(scale));
    if (Bits == 4) high_ = mul(load(table + 8), set1(scale));
#else
    for (int k = 0; k < (1 << Bits); ++k) values_[k] = table[k] * scale;
#endif
  }
  Floats at(const uint8_t* row, int64_t j) const {
    if constexpr (Bits >= 5)
      return mul(add(to_floats(packed_codes<Bits>(row, j)), set1(-0.5f * float((1 << Bits) - 1))), low_);
#if defined(EMBSTORE_ISA_AVX512)
    if constexpr (Bits == 1) {
      uint16_t signs;
      std::memcpy(&signs, row + j / 8, 2);
      return _mm512_mask_blend_ps(signs, _mm512_broadcastss_ps(_mm512_castps512_ps128(low_)),
                                  _mm512_permutexvar_ps(_mm512_set1_epi32(1), low_));
    }
    return _mm512_permutexvar_ps(loose_codes<Bits>(row, j), low_);
#elif defined(EMBSTORE_ISA_AVX2)
    const Codes c = loose_codes<Bits>(row, j);
    const Floats low = _mm256_permutevar8x32_ps(low_, c);
    if constexpr (Bits < 4) return low;
    return _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(high_, c), _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)));
#else
    return pick16(values_, packed_codes<Bits>(row, j));
#endif
  }

 private:
  Floats low_;
#if defined(EMBSTORE_ISA_AVX2)
  Floats high_;
#elif defined(EMBSTORE_ISA_NEON)
  float values_[Bits < 5 ? 1 << Bits : 1];
#endif
};
#endif

// Codes and scales; without a scale the codes again, which are not read twice.
inline RowArrays<2> grid_arrays(const TableView& t) {
  return {t, {"codes", row_scale(t.params) == RowScale::kNone ? "codes" : "scale"}};
}

template <int Bits>
struct GridDecode {
  RowArrays<2> arrays;
  int64_t dim, line_bytes;
  using Place = RowArrays<2>::Place;
  RowScale kind;
  const float* levels;

  explicit GridDecode(const TableView& t)
      : arrays(grid_arrays(t)),
        dim(t.embedding_dim),
        line_bytes(arrays.row_bytes[0] + 64),
        kind(row_scale(t.params)),
        levels(reinterpret_cast<const float*>(t.shared.at("table").data)) {}
  // Rows of whole bytes, since vectors also start at the row's end.
  bool one_scale() const { return Width % 8 == 0 && dim * Bits % 8 == 0; }
#if !defined(EMBSTORE_ISA_REF)
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& at, Body body) const {
    const ScaledLevels<Bits> scaled(levels, read_scale(at[1], kind));
    over_columns<N, Group>(at[0], at[0] + (dim - Group * Width) * Bits / 8,
                           [&](int k, const uint8_t* row, int64_t j) { body(k, scaled.at(row, j)); });
  }
#endif
  template <class Sink>
  EMBSTORE_INLINE void decode(const Place& at, Sink& sink) const {
    const float scale = read_scale(at[1], kind);
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    const ScaledLevels<Bits> scaled(levels, scale);
    j = over_vectors<Sink, 8>(0, dim, [&](int64_t column) { sink.many(column, scaled.at(at[0], column)); });
#endif
    for (; j < dim; ++j) sink.one(j, levels[packed_code<Bits>(at[0], j)] * scale);
  }
};

template <int Bits>
std::unique_ptr<Kernel> grid_kernel_of(const TableView& t) {
  return std::make_unique<RowKernel<GridDecode<Bits>>>(GridDecode<Bits>(t));
}

// MaxBits: the most the method has; fewer make a smaller extension.
template <int MaxBits>
std::unique_ptr<Kernel> grid_kernel(const TableView& t) {
  static constexpr KernelFactory of[] = {grid_kernel_of<1>,
                                         grid_kernel_of < MaxBits >= 2 ? 2 : 1 >,
                                         grid_kernel_of < MaxBits >= 3 ? 3 : 1 >,
                                         grid_kernel_of < MaxBits >= 4 ? 4 : 1 >,
                                         grid_kernel_of < MaxBits >= 5 ? 5 : 1 >,
                                         grid_kernel_of < MaxBits >= 6 ? 6 : 1 >,
                                         grid_kernel_of < MaxBits >= 7 ? 7 : 1 >,
                                         grid_kernel_of < MaxBits >= 8 ? 8 : 1 > };
  return of[t.params.integer("bits", 1) - 1](t);
}

}  // namespace embstore::EMBSTORE_ISA
