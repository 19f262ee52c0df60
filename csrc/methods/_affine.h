// int16, int8, int4, int2: value = code * scale + offset (affine) or code * scale (symmetric), two roundings each.
#pragma once
#include <memory>
#include <stdexcept>
#include <type_traits>

#include "core/widen.h"
#include "methods/_affine_encode.h"
#include "methods/_one_step.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

#if !defined(EMBSTORE_ISA_REF)
// Decodes vectors of one block. Exact: the product of a code and a scale fits a float32.
template <class C, bool Exact, bool Symmetric>
class BlockVectors {
 public:
  template <class S>
  explicit BlockVectors(const S* steps) {
    if constexpr (Symmetric)
      scale_ = widen1(steps);
    else
      widen2(steps, scale_, offset_);
    if constexpr (kPicked) values_ = decode(C::every());
  }
  Floats many(const uint8_t* row, int64_t j) const {
    if constexpr (kPicked)
      return C::pick(values_, row, j);
    else
      return decode(C::many(row, j));
  }

 private:
  // A block of narrow codes has at most 16 values: computed once, then picked by code.
  static constexpr bool kPicked = kPicks && C::kBits <= 4;
  Floats decode(Floats codes) const {
    if (Symmetric) return mul(codes, scale_);
    return Exact ? mul_add_exact(codes, scale_, offset_) : add(mul(codes, scale_), offset_);
  }
  Floats scale_, offset_, values_;
};
#endif

// C: kBits, kPerByte, bytes(j) of j codes, one(row, j) -> float code, many(row, j) -> Floats of codes, j a multiple of
// kPerByte; up to 4 bits also every() -> Floats of all codes, pick(values, row, j) -> the values of codes.
// S: float or uint16_t (half) scales.
template <class C, class S, bool Symmetric>
struct AffineDecode {
  std::shared_ptr<const TableView> one_step;  // null where scales are stored by row
  RowArrays<2> arrays;
  int64_t dim, block_size, line_bytes;
  using Place = RowArrays<2>::Place;

  explicit AffineDecode(const TableView& t)
      : one_step(with_scale_by_row(t)),
        arrays(one_step == nullptr ? t : *one_step, {"codes", Symmetric ? "scale" : "affine"}),
        dim(t.embedding_dim),
        block_size(one_step == nullptr ? t.params.integer("block_size", t.embedding_dim) : t.embedding_dim),
        line_bytes(arrays.row_bytes[0] + 64) {}
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const uint8_t* row = place[0];
    const S* steps = reinterpret_cast<const S*>(place[1]);
    over_blocks(dim, block_size, [&](int64_t block, int64_t j, int64_t end) {
      const S* step = steps + (Symmetric ? block : 2 * block);
#if !defined(EMBSTORE_ISA_REF)
      const Vectors vectors(step);
      j = over_vectors<Sink, C::kPerByte>(j, end, [&](int64_t at) { sink.many(at, vectors.many(row, at)); });
#endif
      if (j == end) return;
      const float scale = widen(step[0]), offset = Symmetric ? 0.0f : widen(step[1]);
      for (; j < end; ++j) {
        const float v = C::one(row, j) * scale;
        sink.one(j, Symmetric ? v : v + offset);
      }
    });
  }
#if !defined(EMBSTORE_ISA_REF)
  // A half float has 11 significant bits, a float32 has 24.
  using Vectors = BlockVectors<C, std::is_same_v<S, uint16_t> && C::kBits + 11 <= 24, Symmetric>;
  bool one_scale() const { return block_size >= dim && dim % C::kPerByte == 0; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const uint8_t* row = place[0];
    const Vectors vectors(reinterpret_cast<const S*>(place[1]));
    over_columns<N, Group>(row, row + C::bytes(dim - Group * Width),
                           [&](int k, const uint8_t* from, int64_t j) { body(k, vectors.many(from, j)); });
  }
#endif
};

template <class C>
std::unique_ptr<Kernel> affine_kernel(const TableView& t) {
  const bool symmetric = t.params.integer("symmetric", 0) != 0;
  const bool half = t.params.is("scale_dtype", "float16") && with_scale_by_row(t) == nullptr;
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

struct Codes8 {
  struct Unsigned {
    static constexpr int kBits = 8, kPerByte = 1;
    static int64_t bytes(int64_t j) { return j; }
    static float one(const uint8_t* row, int64_t j) { return float(reinterpret_cast<const uint8_t*>(row)[j]); }
#if !defined(EMBSTORE_ISA_REF)
    static Floats many(const uint8_t* row, int64_t j) { return from_u8(reinterpret_cast<const uint8_t*>(row) + j); }
#endif
  };
  struct Signed {
    static constexpr int kBits = 8, kPerByte = 1;
    static int64_t bytes(int64_t j) { return j; }
    static float one(const uint8_t* row, int64_t j) { return float(reinterpret_cast<const int8_t*>(row)[j]); }
#if !defined(EMBSTORE_ISA_REF)
    static Floats many(const uint8_t* row, int64_t j) { return from_i8(reinterpret_cast<const int8_t*>(row) + j); }
#endif
  };
};

// Codes of 4 and 2 bits: low bits first; the signed form is stored plus its middle value.
template <int Bits, int Middle>
struct Packed {
  static constexpr int kBits = Bits, kPerByte = 8 / Bits;
  static int64_t bytes(int64_t j) { return j / kPerByte; }
  static float one(const uint8_t* row, int64_t j) {
    return float(int((row[j / kPerByte] >> (j % kPerByte * Bits)) & ((1 << Bits) - 1)) - Middle);
  }
#if defined(EMBSTORE_ISA_AVX512)
  static Floats every() {
    float codes[16];
    for (int c = 0; c < 16; ++c) codes[c] = float(c % (1 << Bits) - Middle);
    return load(codes);
  }
  static Floats pick(Floats values, const uint8_t* row, int64_t j) {
    return Bits == 4 ? pick_u4(values, row + j / 2) : pick_u2(values, row + j / 4);
  }
#elif !defined(EMBSTORE_ISA_REF)
  static Floats many(const uint8_t* row, int64_t j) {
    const Codes c = Bits == 4 ? codes_u4(row + j / 2) : codes_u2(row + j / 4);
    return Middle == 0 ? to_floats(c) : add(to_floats(c), set1(-float(Middle)));
  }
#endif
};

}  // namespace embstore::EMBSTORE_ISA
