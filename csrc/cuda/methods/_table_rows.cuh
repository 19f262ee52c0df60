// Rows of the small tables inside methods (embstore/methods/_table_rows.py): floats, half floats, or codes behind their
// scale and offset.
#pragma once
#include "cuda/core/bytes.cuh"
#include "cuda/core/kernel.h"

namespace embstore::cuda {

// bytes(width) of a row, kColumns of a lane of a bag, Raw: what is loaded of V columns from j on, j a multiple of
// kStep, values(raw, v), and one(row, j), a single value.
struct FloatRow {
  static constexpr int kColumns = 4, kStep = 1;
  EMBSTORE_HD static int64_t bytes(int64_t width) { return 4 * width; }
  template <int V>
  using Raw = Bytes<4 * V>;

  template <int V>
  EMBSTORE_HD static Raw<V> fetch(const uint8_t* row, int j, int align) {
    return read_bytes<4 * V>(row + 4 * int64_t(j), align);
  }
  template <int V>
  EMBSTORE_HD static void values(const Raw<V>& raw, float (&v)[V]) {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = bits_float(raw.words[k]);
  }
  EMBSTORE_HD static float one(const uint8_t* row, int j) { return bits_float(read<uint32_t>(row + 4 * int64_t(j))); }
};

struct HalfRow {
  static constexpr int kColumns = 8, kStep = 1;
  EMBSTORE_HD static int64_t bytes(int64_t width) { return 2 * width; }
  template <int V>
  using Raw = Bytes<2 * V>;

  template <int V>
  EMBSTORE_HD static Raw<V> fetch(const uint8_t* row, int j, int align) {
    return read_bytes<2 * V>(row + 2 * int64_t(j), align);
  }
  template <int V>
  EMBSTORE_HD static void values(const Raw<V>& raw, float (&v)[V]) {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = widen(uint16_t(raw.template code<16>(k)));
  }
  EMBSTORE_HD static float one(const uint8_t* row, int j) { return widen(read<uint16_t>(row + 2 * int64_t(j))); }
};

// Rows are of whole pairs of bytes.
template <int Bits>
struct CodedRow {
  static constexpr int kColumns = 16, kStep = 8 / Bits;
  EMBSTORE_HD static int64_t bytes(int64_t width) { return 4 + ((width * Bits + 7) / 8 + 1) / 2 * 2; }
  template <int V>
  struct Raw {
    Bytes<V * Bits / 8> codes;
    uint32_t step;
  };

  template <int V>
  EMBSTORE_HD static Raw<V> fetch(const uint8_t* row, int j, int align) {
    const int wide = align < 4 ? align : 4;  // codes begin 4 bytes into the row
    return {read_bytes<V * Bits / 8>(row + 4 + j * Bits / 8, wide), read_bytes<4>(row, align).words[0]};
  }
  // The product of a code and a half float fits a float32.
  EMBSTORE_HD static float value(uint32_t code, uint32_t step) {
    return mul_add_exact(float(code), widen(uint16_t(step)), widen(uint16_t(step >> 16)));
  }
  template <int V>
  EMBSTORE_HD static void values(const Raw<V>& raw, float (&v)[V]) {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = value(raw.codes.template code<Bits>(k), raw.step);
  }
  EMBSTORE_HD static float one(const uint8_t* row, int j) {
    const uint32_t byte = read<uint8_t>(row + 4 + j * Bits / 8);
    const uint32_t step = read<uint16_t>(row) | uint32_t(read<uint16_t>(row + 2)) << 16;
    return value((byte >> (j * Bits % 8)) & ((1u << Bits) - 1), step);
  }
};

// make(FloatRow or CodedRow, to be told apart by type alone) -> Kernel, by the text of a field of the config.
template <class Make>
std::unique_ptr<Kernel> by_row_dtype(const Table& t, const char* field, Make make) {
  if (t.params.is(field, "int8")) return make(CodedRow<8>());
  if (t.params.is(field, "int4")) return make(CodedRow<4>());
  return make(FloatRow());
}

template <class Make>
std::unique_ptr<Kernel> by_table_dtype(const Table& t, Make make) {
  return by_row_dtype(t, "table_dtype", make);
}

}  // namespace embstore::cuda
