// int16, int8, int4, int2: value = code * scale + offset (affine) or code * scale (symmetric), two roundings each.
#pragma once
#include "methods/_affine_encode.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

// C: kPerByte, bytes(j) of j codes, one(row, j) -> float code, many(row, j) -> Floats of codes, j a multiple of kPerByte; S: float or uint16_t (half) scales.
template <class C, class S, bool Symmetric>
struct AffineDecode {
  RowArrays<2> arrays;
  int64_t dim, block_size, line_bytes;
  using Place = RowArrays<2>::Place;

  explicit AffineDecode(const TableView& t)
      : arrays(t, {"codes", Symmetric ? "scale" : "affine"}),
        dim(t.embedding_dim),
        block_size(t.params.integer("block_size", t.embedding_dim)),
        line_bytes(arrays.row_bytes[0] + 64) {}
  static float widen(float x) { return x; }
  static float widen(uint16_t x) {
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
    return _cvtsh_ss(x);
#else
    return half_to_float(x);
#endif
  }
  float scale_of(const S* steps, int64_t block) const { return widen(steps[Symmetric ? block : 2 * block]); }
  float offset_of(const S* steps, int64_t block) const { return Symmetric ? 0.0f : widen(steps[2 * block + 1]); }
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const uint8_t* row = place[0];
    const S* steps = reinterpret_cast<const S*>(place[1]);
    over_blocks(dim, block_size, [&](int64_t block, int64_t j, int64_t end) {
      const float scale = scale_of(steps, block), offset = offset_of(steps, block);
#if !defined(EMBSTORE_ISA_REF)
      const Floats scales16 = set1(scale), offsets16 = set1(offset);
      j = over_vectors<Sink, C::kPerByte>(j, end, [&](int64_t at) {
        const Floats v = mul(C::many(row, at), scales16);
        sink.many(at, Symmetric ? v : add(v, offsets16));
      });
#endif
      for (; j < end; ++j) {
        const float v = C::one(row, j) * scale;
        sink.one(j, Symmetric ? v : v + offset);
      }
    });
  }
#if !defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return block_size >= dim && dim % C::kPerByte == 0; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const uint8_t* row = place[0];
    const S* steps = reinterpret_cast<const S*>(place[1]);
    const Floats scale = set1(scale_of(steps, 0)), offset = set1(offset_of(steps, 0));
    over_columns<N, Group>(row, row + C::bytes(dim - Group * Width), [&](int k, const uint8_t* from, int64_t j) {
      const Floats v = mul(C::many(from, j), scale);
      body(k, Symmetric ? v : add(v, offset));
    });
  }
#endif
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
  static constexpr int kPerByte = 8 / Bits;
  static int64_t bytes(int64_t j) { return j / kPerByte; }
  static float one(const uint8_t* row, int64_t j) {
    return float(int((row[j / kPerByte] >> (j % kPerByte * Bits)) & ((1 << Bits) - 1)) - Middle);
  }
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const uint8_t* row, int64_t j) {
    const Codes c = Bits == 4 ? codes_u4(row + j / 2) : codes_u2(row + j / 4);
    return Middle == 0 ? to_floats(c) : add(to_floats(c), set1(-float(Middle)));
  }
#endif
};

}  // namespace embstore::EMBSTORE_ISA
