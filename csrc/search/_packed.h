// The scorer of rabitq, turboquant and binary. Queries are rounded to 8-bit integers, codes widened to bytes, and
// their products summed as integers: the only error is the rounding of the query, at most half a 127th of its largest
// value for each of its values.
//
// A block of rows is widened once for all queries of a tile, and turned so that the same four columns of neighbouring
// rows lie in one register: sums then need no adding across lanes.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/search.h"
#include "core/unpack.h"
#include "methods/_grid.h"
#include "search/_sums.h"

namespace embstore::EMBSTORE_ISA {

inline constexpr int64_t kBlock = 64;           // rows widened at a time
inline constexpr int64_t kColumns = 1024;       // columns widened at a time: a block is at most 64 KiB
inline constexpr int kGroups = 4, kAtOnce = 4;  // groups of rows times queries summed at a time

// What a byte stands for: (byte - middle) * unit * the row's scale.
struct ByteMeaning {
  float middle, unit;
  uint8_t bytes[16];  // of each code, where codes are not the bytes themselves
};

template <int B, bool Mapped>
class PackedScorer final : public Scorer {
 public:
  PackedScorer(const TableView& t, const ByteMeaning& meaning)
      : arrays_(grid_arrays(t)), kind_(row_scale(t.params)), dim_(t.embedding_dim), meaning_(meaning) {}

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    auto made = std::make_unique<Quantized>();
    made->count = count;
    made->values.assign(size_t(count * padded()), 0);
    for (int64_t q = 0; q < count; ++q) {
      const float* query = queries + q * dim_;
      float top = 0.0f;
      for (int64_t j = 0; j < dim_; ++j) top = std::max(top, std::fabs(query[j]));
      const float step = top / kQueryTop;
      int64_t total = 0;
      for (int64_t j = 0; j < dim_ && top > 0.0f; ++j) {
        const long value = std::lrint(std::min(kQueryTop, std::max(-kQueryTop, query[j] / top * kQueryTop)));
        made->values[size_t(q * padded() + j)] = int8_t(value);
        total += value;
      }
      made->factor.push_back(step * meaning_.unit);
      made->shift.push_back(-meaning_.middle * float(total));
    }
    return made;
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    const auto& given = static_cast<const Quantized&>(prepared);
    thread_local std::vector<uint8_t> bytes;
    bytes.resize(size_t(kBlock * std::min(kColumns, padded())));
    for (int64_t r = 0; r < count; r += kBlock) {
      const int64_t rows = std::min(kBlock, count - r);
      for (int64_t c = 0; c < padded(); c += kColumns) {
        const int64_t columns = std::min(kColumns, padded() - c);
        widen(first + r, rows, c, columns, bytes.data());
        int64_t q = 0;
        for (; q + kAtOnce <= given.count; q += kAtOnce)
          products<kAtOnce>(bytes.data(), rows, given.values.data() + q * padded() + c, columns, c > 0,
                            tile + q * kTileRows + r);
        for (; q < given.count; ++q)
          products<1>(bytes.data(), rows, given.values.data() + q * padded() + c, columns, c > 0,
                      tile + q * kTileRows + r);
      }
    }
    float scales[kTileRows];
    for (int64_t r = 0; r < count; ++r) scales[r] = read_scale(arrays_.place(first + r)[1], kind_);
    for (int64_t q = 0; q < given.count; ++q) {
      const float shift = given.shift[size_t(q)], factor = given.factor[size_t(q)];
      float* scores = tile + q * kTileRows;
      for (int64_t r = 0; r < count; ++r) scores[r] = (scores[r] + shift) * factor * scales[r];
    }
  }

 private:
#if defined(EMBSTORE_ISA_AVX2)
  static constexpr float kQueryTop = B == 8 || Mapped ? 64.0f : 127.0f;
#else
  static constexpr float kQueryTop = 127.0f;
#endif
  struct Quantized final : Prepared {
    int64_t count = 0;
    std::vector<int8_t> values;  // count x padded()
    std::vector<float> factor, shift;
  };

  const uint8_t* codes(int64_t row) const noexcept { return arrays_.place(row)[0]; }
  int64_t padded() const { return (dim_ + 63) / 64 * 64; }

  // Bytes of `columns` columns (a multiple of 64) from column c: four columns of kSumRows rows, then the next four;
  // groups of rows one after the other. Columns beyond the row and rows beyond the last are zero.
  void widen(int64_t first, int64_t rows, int64_t c, int64_t columns, uint8_t* out) const noexcept {
    for (int64_t g = 0; g < rows; g += kSumRows, out += kSumRows * columns) {
#if defined(EMBSTORE_ISA_AVX512)
      for (int64_t j = 0; j < columns; j += 64) {
        __m512i lines[16];
        for (int64_t r = 0; r < kSumRows; ++r)
          lines[r] = g + r < rows ? bytes_of(codes(first + g + r), c + j) : _mm512_setzero_si512();
        turn(lines);
        for (int64_t k = 0; k < 16; ++k) _mm512_storeu_si512(out + (j + 4 * k) * kSumRows, lines[k]);
      }
#else
      for (int64_t r = 0; r < kSumRows; ++r) {
        const uint8_t* row = g + r < rows ? codes(first + g + r) : nullptr;
        for (int64_t j = 0; j < columns; ++j) {
          const bool inside = row != nullptr && c + j < dim_;
          const int code = inside ? packed_code<B>(row, c + j) : 0;
          const int64_t place = kSumRows == 1 ? j : (j / 4 * kSumRows + r) * 4 + j % 4;
          out[place] = !inside ? uint8_t(0) : Mapped ? meaning_.bytes[code] : uint8_t(code);
        }
      }
#endif
    }
  }

#if defined(EMBSTORE_ISA_AVX512)
  struct Spread64 {  // for each eight codes: their bytes, and where each code begins in them
    alignas(64) uint8_t bytes[64] = {};
    alignas(64) uint8_t bits[64] = {};
    constexpr Spread64() {
      for (int i = 0; i < 64; ++i) {
        bytes[i] = uint8_t(i / 8 * B + std::min(i % 8, B - 1));
        bits[i] = uint8_t(i % 8 * B);
      }
    }
  };

  // 64 codes from column j on, zero beyond the row.
  __m512i bytes_of(const uint8_t* row, int64_t j) const noexcept {
    static constexpr Spread64 spread;
    const int64_t left = arrays_.row_bytes[0] - j * B / 8;
    const __mmask64 mask = left >= 8 * B ? ~uint64_t(0) >> (64 - 8 * B) : left <= 0 ? 0 : ~uint64_t(0) >> (64 - left);
    const __m512i packed = _mm512_maskz_loadu_epi8(mask, row + j * B / 8);
    const __m512i groups = _mm512_permutexvar_epi8(_mm512_load_si512(spread.bytes), packed);
    __m512i codes = _mm512_multishift_epi64_epi8(_mm512_load_si512(spread.bits), groups);
    codes = _mm512_and_si512(codes, _mm512_set1_epi8(char((1 << B) - 1)));
    if constexpr (!Mapped) return codes;
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(meaning_.bytes));
    const __mmask64 inside = dim_ - j >= 64 ? ~uint64_t(0) : dim_ <= j ? 0 : ~uint64_t(0) >> (64 - (dim_ - j));
    return _mm512_maskz_shuffle_epi8(inside, _mm512_broadcast_i32x4(table), codes);
  }
#endif

#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  // Sums of products with Q queries; the tile has room for whole groups, since kTileRows is a multiple of kBlock.
  template <int Q>
  void products(const uint8_t* bytes, int64_t rows, const int8_t* queries, int64_t columns, bool more,
                float* tile) const noexcept {
    int64_t r = 0;
    for (; r + kGroups * kSumRows <= rows; r += kGroups * kSumRows)
      groups<Q, kGroups>(bytes + r * columns, queries, columns, more, tile + r);
    for (; r < rows; r += kSumRows) groups<Q, 1>(bytes + r * columns, queries, columns, more, tile + r);
  }

  template <int Q, int G>
  void groups(const uint8_t* bytes, const int8_t* queries, int64_t columns, bool more, float* tile) const noexcept {
    Sums sums[Q][G];
    for (int q = 0; q < Q; ++q)
      for (int g = 0; g < G; ++g) sums[q][g] = no_sums();
    for (int64_t j = 0; j < columns; j += 4) {
      Sums codes[G];
      for (int g = 0; g < G; ++g) codes[g] = four_columns(bytes + (g * columns + j) * kSumRows);
      for (int q = 0; q < Q; ++q) {
        const Sums query = four_of_query(queries + q * padded() + j);
        for (int g = 0; g < G; ++g) sums[q][g] = add_products(sums[q][g], codes[g], query);
      }
    }
    for (int q = 0; q < Q; ++q)
      for (int g = 0; g < G; ++g) {
        float* at = tile + q * kTileRows + g * kSumRows;
        const Floats found = as_floats(sums[q][g]);
        store(at, more ? add(load(at), found) : found);
      }
  }
#else
  template <int Q>
  void products(const uint8_t* bytes, int64_t rows, const int8_t* queries, int64_t columns, bool more,
                float* tile) const noexcept {
    for (int q = 0; q < Q; ++q)
      for (int64_t r = 0; r < rows; ++r) {
        int32_t sum = 0;
        for (int64_t j = 0; j < columns; ++j) sum += int32_t(bytes[r * columns + j]) * queries[q * padded() + j];
        float& at = tile[q * kTileRows + r];
        at = more ? at + float(sum) : float(sum);
      }
  }
#endif

  RowArrays<2> arrays_;
  RowScale kind_;
  int64_t dim_;
  ByteMeaning meaning_;
};

// Codes that are the bytes themselves: value = (code - (2^B - 1) / 2) * unit.
template <int B>
std::unique_ptr<Scorer> uniform_scorer(const TableView& t, float unit) {
  return std::make_unique<PackedScorer<B, false>>(t, ByteMeaning{0.5f * float((1 << B) - 1), unit, {}});
}

}  // namespace embstore::EMBSTORE_ISA
