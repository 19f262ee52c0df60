// Rows of the small tables inside methods (embstore/methods/_table_rows.py): floats, half floats, or codes behind their
// scale and offset, so that a row is one run of bytes.
#pragma once
#include "methods/_affine.h"

namespace embstore::EMBSTORE_ISA {

// A stored row, open to be read: codes, where they lie; one(j), a value; vector(from, j), Width values from `from`
// on, which is `codes`, or `codes` and offset(i) bytes for a column i, a multiple of kStep. scalars() reads many values
// one by one.
struct FloatRow {
  static constexpr int kStep = 1;
  static int64_t bytes(int64_t width) { return 4 * width; }
  static int64_t offset(int64_t column) { return 4 * column; }
  const uint8_t* codes;

  explicit FloatRow(const uint8_t* row) : codes(row) {}
  float one(int64_t j) const { return reinterpret_cast<const float*>(codes)[j]; }
  FloatRow scalars() const { return *this; }
#if !defined(EMBSTORE_ISA_REF)
  EMBSTORE_INLINE Floats vector(const uint8_t* from, int64_t j) const {
    return load(reinterpret_cast<const float*>(from) + j);
  }
#endif
};

struct HalfRow {
  static constexpr int kStep = 1;
  static int64_t bytes(int64_t width) { return 2 * width; }
  const uint8_t* codes;

  explicit HalfRow(const uint8_t* row) : codes(row) {}
  float one(int64_t j) const { return widen(reinterpret_cast<const uint16_t*>(codes)[j]); }
  HalfRow scalars() const { return *this; }
#if !defined(EMBSTORE_ISA_REF)
  EMBSTORE_INLINE Floats vector(const uint8_t* from, int64_t j) const {
    return from_half(reinterpret_cast<const uint16_t*>(from) + j);
  }
#endif
};

template <class C>
struct CodedRow {
  static constexpr int kStep = C::kPerByte;
  static int64_t bytes(int64_t width) { return 4 + ((width + kStep - 1) / kStep + 1) / 2 * 2; }
  static int64_t offset(int64_t column) { return C::bytes(column); }
  const uint8_t* codes;

  explicit CodedRow(const uint8_t* row)
      : codes(row + 4)
#if !defined(EMBSTORE_ISA_REF)
        ,
        vectors_(reinterpret_cast<const uint16_t*>(row))
#endif
  {
  }
  struct Scalars {
    const uint8_t* codes;
    float scale, offset;
    EMBSTORE_INLINE float one(int64_t j) const {
      const float v = C::one(codes, j) * scale;
      return v + offset;
    }
  };
  EMBSTORE_INLINE Scalars scalars() const {
    const auto* step = reinterpret_cast<const uint16_t*>(codes - 4);
    return {codes, widen(step[0]), widen(step[1])};
  }
  float one(int64_t j) const { return scalars().one(j); }
#if !defined(EMBSTORE_ISA_REF)
  EMBSTORE_INLINE Floats vector(const uint8_t* from, int64_t j) const { return vectors_.many(from, j); }

 private:
  BlockVectors<C, true, false> vectors_;
#endif
};

using Int8Row = CodedRow<Codes8::Unsigned>;
using Int4Row = CodedRow<Packed<4, 0>>;

// make(FloatRow or Int8Row or Int4Row, to be told apart by type alone) -> Kernel, by the text of a field of the config.
template <class Make>
std::unique_ptr<Kernel> by_row_dtype(const TableView& t, const char* field, Make make) {
  alignas(2) static const uint8_t none[4] = {};
  if (t.params.is(field, "int8")) return make(Int8Row(none));
  if (t.params.is(field, "int4")) return make(Int4Row(none));
  return make(FloatRow(none));
}

template <class Make>
std::unique_ptr<Kernel> by_table_dtype(const TableView& t, Make make) {
  return by_row_dtype(t, "table_dtype", make);
}

}  // namespace embstore::EMBSTORE_ISA
