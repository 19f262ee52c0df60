// Rows of the small tables of trained methods (embstore/methods/_table_rows.py): floats, or codes behind their scale
// and offset, so that a row is one run of bytes.
#pragma once
#include "methods/_affine.h"

namespace embstore::EMBSTORE_ISA {

// A stored row, open to be read: codes, where they lie; one(j), a value; vector(from, j), Width values from `from`
// on, which is `codes`, or `codes` and offset(i) bytes for a column i, a multiple of kStep.
struct FloatRow {
  static constexpr int kStep = 1;
  static int64_t bytes(int64_t width) { return 4 * width; }
  static int64_t offset(int64_t column) { return 4 * column; }
  const uint8_t* codes;

  explicit FloatRow(const uint8_t* row) : codes(row) {}
  float one(int64_t j) const { return reinterpret_cast<const float*>(codes)[j]; }
#if !defined(EMBSTORE_ISA_REF)
  EMBSTORE_INLINE Floats vector(const uint8_t* from, int64_t j) const {
    return load(reinterpret_cast<const float*>(from) + j);
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
  float one(int64_t j) const {
    const auto* step = reinterpret_cast<const uint16_t*>(codes - 4);
    const float v = C::one(codes, j) * half_to_float(step[0]);
    return v + half_to_float(step[1]);
  }
#if !defined(EMBSTORE_ISA_REF)
  EMBSTORE_INLINE Floats vector(const uint8_t* from, int64_t j) const { return vectors_.many(from, j); }

 private:
  BlockVectors<C, true, false> vectors_;
#endif
};

using Int8Row = CodedRow<Codes8::Unsigned>;
using Int4Row = CodedRow<Packed<4, 0>>;

// make(FloatRow or Int8Row or Int4Row, to be told apart by type alone) -> Kernel.
template <class Make>
std::unique_ptr<Kernel> by_table_dtype(const TableView& t, Make make) {
  alignas(2) static const uint8_t none[4] = {};
  if (t.params.is("table_dtype", "int8")) return make(Int8Row(none));
  if (t.params.is("table_dtype", "int4")) return make(Int4Row(none));
  return make(FloatRow(none));
}

}  // namespace embstore::EMBSTORE_ISA
