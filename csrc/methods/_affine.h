// int16, int8, int4, int2: value = code * scale + offset (affine) or code * scale (symmetric), two roundings each.
#pragma once
#include "methods/_affine_encode.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

// C: bits, packed(), one(row, j) -> float code, many(row, j) -> Floats of codes; S: float or uint16_t (half) scales.
template <class C, class S, bool Symmetric>
struct AffineDecode {
  Rows codes, scales;
  int64_t dim, block_size, line_bytes;

  explicit AffineDecode(const TableView& t)
      : codes(t, "codes"),
        scales(t, Symmetric ? "scale" : "affine"),
        dim(t.embedding_dim),
        block_size(t.params.integer("block_size", t.embedding_dim)),
        line_bytes(codes.row_bytes + 64) {}
  void prefetch(int64_t id) const {
    codes.prefetch_row(id);
    ::embstore::EMBSTORE_ISA::prefetch(scales[id]);
  }
  static float widen(float x) { return x; }
  static float widen(uint16_t x) {
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
    return _cvtsh_ss(x);
#else
    return half_to_float(x);
#endif
  }
  bool one_block() const { return block_size >= dim; }
  template <int N = 0, class Sink>
  void decode(int64_t id, Sink& sink) const {
    const uint8_t* row = codes[id];
    const S* steps = reinterpret_cast<const S*>(scales[id]);
    over_blocks(N > 0 ? N * Width : dim, N > 0 ? N * Width : block_size, [&](int64_t block, int64_t j, int64_t end) {
      const float scale = widen(steps[Symmetric ? block : 2 * block]);
      const float offset = Symmetric ? 0.0f : widen(steps[2 * block + 1]);
#if !defined(EMBSTORE_ISA_REF)
      const Floats scales16 = set1(scale), offsets16 = set1(offset);
#pragma GCC unroll 16
      for (; j + Width <= end; j += Width) {
        const Floats v = mul(C::many(row, j), scales16);
        sink.many(j, Symmetric ? v : add(v, offsets16));
      }
#endif
      for (; j < end; ++j) {
        const float v = C::one(row, j) * scale;
        sink.one(j, Symmetric ? v : v + offset);
      }
    });
  }
};

template <class C>
std::unique_ptr<Kernel> affine_kernel(const TableView& t) {
  const bool symmetric = t.params.integer("symmetric", 0) != 0;
  const bool half = t.params.is("scale_dtype", "float16");
  using Plain = typename C::Unsigned;
  using Signed = typename C::Signed;
  if (symmetric && half)
    return std::make_unique<RowKernel<AffineDecode<Signed, uint16_t, true>>>(AffineDecode<Signed, uint16_t, true>(t));
  if (symmetric)
    return std::make_unique<RowKernel<AffineDecode<Signed, float, true>>>(AffineDecode<Signed, float, true>(t));
  if (half)
    return std::make_unique<RowKernel<AffineDecode<Plain, uint16_t, false>>>(AffineDecode<Plain, uint16_t, false>(t));
  return std::make_unique<RowKernel<AffineDecode<Plain, float, false>>>(AffineDecode<Plain, float, false>(t));
}

// Codes of 4 and 2 bits: low bits first; the signed form is stored plus its middle value.
template <int Bits, int Middle>
struct Packed {
  static float one(const uint8_t* row, int64_t j) {
    constexpr int per = 8 / Bits;
    return float(int((row[j / per] >> (j % per * Bits)) & ((1 << Bits) - 1)) - Middle);
  }
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const uint8_t* row, int64_t j) {
    const Codes c = Bits == 4 ? codes_u4(row + j / 2) : codes_u2(row + j / 4);
    return Middle == 0 ? to_floats(c) : add(to_floats(c), set1(-float(Middle)));
  }
#endif
};

}  // namespace embstore::EMBSTORE_ISA
