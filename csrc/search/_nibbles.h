// The scorer of codes of 4 bits: tables of 16 bytes, looked up in registers. Rows of a tile are turned once for all
// queries; results of a lookup are added up as integers.
#pragma once
#include "search/_tables.h"

namespace embstore::EMBSTORE_ISA {

struct alignas(64) Line {
  uint8_t bytes[64];
};

class NibbleScorer final : public TableScorer<NibbleCodes> {
 public:
  NibbleScorer(const TableView& t, bool additive)
      : TableScorer(t, additive), row_bytes_(rows_.row_bytes[0]), words_((row_bytes_ + 3) / 4) {}

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    auto made = std::make_unique<Bytes>();
    made->tables.resize(size_t(count * 2 * words_), Line{});
    // Sums of 16 bits hold m entries.
    fill(*made, queries, count, int(std::min<int64_t>(255, 65535 / m_)), [&](int64_t q, const uint16_t* integers) {
      uint8_t* table = made->table(q, words_);
      for (int64_t s = 0; s < m_; ++s)
        for (int64_t c = 0; c < 16; ++c) table[place_of(s) + c] = uint8_t(integers[s * 16 + c]);
    });
    return made;
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    const auto& given = static_cast<const Bytes&>(prepared);
    const uint8_t* rows = rows_.place(first)[0];
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
#if defined(EMBSTORE_ISA_AVX512)
    if (given.queries == 1) return sums_at_once<1>(rows, count, given, tile);
    if (given.queries == 2) return sums_at_once<2>(rows, count, given, tile);
#endif
    // About 8 KiB of turned codes: they stay in the first-level cache beside the tables of a few queries.
    const int64_t block = std::clamp<int64_t>(1024 / words_ / 64 * 64, 64, kTileRows);
    thread_local std::vector<Line> turned;
    turned.resize(size_t(block / 16 * 2 * words_));
    for (int64_t r = 0; r < count; r += block) {
      const int64_t n = std::min(block, count - r);
      turn(rows + r * row_bytes_, n, turned.data());
      int64_t q = 0;
      for (; q + kQueries <= given.queries; q += kQueries) sums<kQueries>(turned.data(), n, given, q, tile + r);
      for (; q < given.queries; ++q) sums<1>(turned.data(), n, given, q, tile + r);
    }
#else
    for (int64_t q = 0; q < given.queries; ++q) {
      const uint8_t* table = given.table(q, words_);
      const auto [step, offset] = given.rounded[size_t(q)];
      for (int64_t r = 0; r < count; ++r) {
        int sum = 0;
        for (int64_t s = 0; s < m_; ++s) sum += table[place_of(s) + packed_.at(rows + r * row_bytes_, s)];
        tile[q * kTileRows + r] = float(sum) * step + offset;
      }
    }
#endif
  }

 private:
  struct Bytes final : Products {
    std::vector<Line> tables;  // queries x 2 x words
    uint8_t* table(int64_t q, int64_t words) { return tables[size_t(q * 2 * words)].bytes; }
    const uint8_t* table(int64_t q, int64_t words) const { return tables[size_t(q * 2 * words)].bytes; }
  };

#if defined(EMBSTORE_ISA_AVX512)
  static constexpr int kQueries = 4, kGroups = 4;  // sums in registers: kQueries * kGroups

  // A word of a row has 8 codes: first a line of the tables of its even ones, then one of its odd ones.
  static int64_t place_of(int64_t s) { return (s / 8 * 2 + s % 2) * 64 + s % 8 / 2 * 16; }

  // Words c / 4 to c / 4 + 3 of 16 rows, c a multiple of 16: of each word its even, then its odd codes, a row's four
  // together, each with its place among the four tables of a line above it. Rows from `count` on are zeros.
  EMBSTORE_INLINE void codes_of(const uint8_t* rows, int64_t count, int64_t c, __m512i (&out)[8]) const noexcept {
    const __mmask16 mask = row_bytes_ - c >= 16 ? 0xffff : uint16_t((1u << (row_bytes_ - c)) - 1);
    const auto gather = [&](auto quarter) {
      __m512i x[4];
      for (int i = 0; i < 4; ++i) {
        x[i] = _mm512_castsi128_si512(quarter(i));
        x[i] = _mm512_inserti32x4(x[i], quarter(4 + i), 1);
        x[i] = _mm512_inserti32x4(x[i], quarter(8 + i), 2);
        x[i] = _mm512_inserti32x4(x[i], quarter(12 + i), 3);
      }
      const __m512i low01 = _mm512_unpacklo_epi32(x[0], x[1]), low23 = _mm512_unpacklo_epi32(x[2], x[3]);
      const __m512i high01 = _mm512_unpackhi_epi32(x[0], x[1]), high23 = _mm512_unpackhi_epi32(x[2], x[3]);
      out[0] = _mm512_unpacklo_epi64(low01, low23);
      out[2] = _mm512_unpackhi_epi64(low01, low23);
      out[4] = _mm512_unpacklo_epi64(high01, high23);
      out[6] = _mm512_unpackhi_epi64(high01, high23);
    };
    rows += c;
    if (count >= 16 && mask == 0xffff)
      gather([&](int64_t r) { return bytes16(rows + r * row_bytes_); });
    else
      gather([&](int64_t r) { return _mm_maskz_loadu_epi8(r < count ? mask : 0, rows + r * row_bytes_); });
    const __m512i low = _mm512_set1_epi32(0x0f0f0f0f), tables = _mm512_set1_epi32(0x30201000);
    for (int k = 0; k < 8; k += 2) {
      out[k + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(out[k], 4), low), tables);
      out[k] = _mm512_or_si512(_mm512_and_si512(out[k], low), tables);
    }
  }

  void turn(const uint8_t* rows, int64_t count, Line* out) const noexcept {
    for (int64_t g = 0; g < count; g += 16, out += 2 * words_)
      for (int64_t c = 0; c < row_bytes_; c += 16) {
        __m512i codes[8];
        codes_of(rows + g * row_bytes_, count - g, c, codes);
        const int64_t lines = 2 * words_ - c / 2;
#pragma GCC unroll 8
        for (int64_t k = 0; k < 8; ++k)
          if (k < lines) _mm512_store_si512(out[c / 2 + k].bytes, codes[k]);
      }
  }

  // As turning and then `sums`, without keeping what was turned.
  template <int Q>
  void sums_at_once(const uint8_t* rows, int64_t count, const Bytes& given, float* tile) const noexcept {
    const Line* tables = given.tables.data();
    const __m512i ones = _mm512_set1_epi8(1);
    for (int64_t r = 0; r < count; r += 16) {
      __m512i found[Q];
      for (auto& sum : found) sum = _mm512_setzero_si512();
      for (int64_t c = 0; c < row_bytes_; c += 16) {
        __m512i codes[8];
        codes_of(rows + r * row_bytes_, count - r, c, codes);
        const int64_t lines = std::min<int64_t>(8, 2 * words_ - c / 2);
        for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
          for (int64_t k = 0; k < 8; ++k) {
            if (k >= lines) break;
            const __m512i table = _mm512_load_si512(tables[q * 2 * words_ + c / 2 + k].bytes);
            found[q] = _mm512_dpbusd_epi32(found[q], _mm512_permutexvar_epi8(codes[k], table), ones);
          }
      }
      for (int q = 0; q < Q; ++q) {
        const auto [step, offset] = given.rounded[size_t(q)];
        store(tile + q * kTileRows + r, add(mul(_mm512_cvtepi32_ps(found[q]), set1(step)), set1(offset)));
      }
    }
  }

  template <int Q>
  void sums(const Line* codes, int64_t count, const Bytes& given, int64_t q0, float* tile) const noexcept {
    const int64_t lines = 2 * words_;
    const Line* tables = given.tables.data() + q0 * lines;
    const __m512i ones = _mm512_set1_epi8(1);
    for (int64_t r = 0; r < count; r += kGroups * 16, codes += kGroups * lines) {
      __m512i found[Q][kGroups];
      for (auto& each : found)
        for (auto& sum : each) sum = _mm512_setzero_si512();
      for (int64_t j = 0; j < lines; ++j) {
        __m512i at[kGroups];
        for (int g = 0; g < kGroups; ++g) at[g] = _mm512_load_si512(codes[g * lines + j].bytes);
        for (int q = 0; q < Q; ++q) {
          const __m512i table = _mm512_load_si512(tables[q * lines + j].bytes);
          for (int g = 0; g < kGroups; ++g)
            found[q][g] = _mm512_dpbusd_epi32(found[q][g], _mm512_permutexvar_epi8(at[g], table), ones);
        }
      }
      for (int q = 0; q < Q; ++q) {
        const auto [step, offset] = given.rounded[size_t(q0 + q)];
        for (int g = 0; g < kGroups; ++g)
          store(tile + (q0 + q) * kTileRows + r + g * 16,
                add(mul(_mm512_cvtepi32_ps(found[q][g]), set1(step)), set1(offset)));
      }
    }
  }
#else
  static int64_t place_of(int64_t s) { return s * 16; }
#endif

#if defined(EMBSTORE_ISA_AVX2)
  static constexpr int kQueries = 4;

  // Of each 32 rows half a line a byte: that byte of every row.
  void turn(const uint8_t* rows, int64_t count, Line* lines) const noexcept {
    uint8_t* out = lines->bytes;
    for (int64_t g = 0; g < count; g += 32, out += 128 * words_)
      for (int64_t half = 0; half < 32; half += 16)
        for (int64_t c = 0; c < row_bytes_; c += 16) {
          const int64_t n = std::min<int64_t>(16, row_bytes_ - c);
          __m128i x[16], y[16];
          for (int r = 0; r < 16; ++r) {
            const int64_t row = std::min(count - 1, g + half + r);
            if (n == 16) {
              x[r] = bytes16(rows + row * row_bytes_ + c);
            } else {
              uint8_t tail[16] = {};
              std::memcpy(tail, rows + row * row_bytes_ + c, size_t(n));
              x[r] = bytes16(tail);
            }
          }
          for (int r = 0; r < 8; ++r) {
            y[2 * r] = _mm_unpacklo_epi8(x[r], x[r + 8]);
            y[2 * r + 1] = _mm_unpackhi_epi8(x[r], x[r + 8]);
          }
          for (int round = 0; round < 3; ++round) {
            for (int r = 0; r < 8; ++r) {
              x[2 * r] = _mm_unpacklo_epi8(y[r], y[r + 8]);
              x[2 * r + 1] = _mm_unpackhi_epi8(y[r], y[r + 8]);
            }
            std::copy(x, x + 16, y);
          }
          for (int64_t k = 0; k < n; ++k) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + (c + k) * 32 + half), y[k]);
        }
  }

  template <int Q>
  void sums(const Line* lines, int64_t count, const Bytes& given, int64_t q0, float* tile) const noexcept {
    const __m256i low = _mm256_set1_epi8(15);
    const uint8_t* codes = lines->bytes;
    for (int64_t r = 0; r < count; r += 32, codes += 128 * words_) {
      // Of words of two rows: the sum of the even row plus 256 times that of the odd one, and of the odd one.
      __m256i both[Q], odd[Q];
      for (int q = 0; q < Q; ++q) both[q] = odd[q] = _mm256_setzero_si256();
      for (int64_t b = 0; b < row_bytes_; ++b) {
        const __m256i two = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * b));
        const __m256i first = _mm256_and_si256(two, low), second = _mm256_and_si256(_mm256_srli_epi16(two, 4), low);
        for (int q = 0; q < Q; ++q) {
          const uint8_t* table = given.table(q0 + q, words_) + 32 * b;
          const __m256i one = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes16(table)), first);
          const __m256i other = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes16(table + 16)), second);
          both[q] = _mm256_add_epi16(both[q], _mm256_add_epi16(one, other));
          odd[q] = _mm256_add_epi16(odd[q], _mm256_add_epi16(_mm256_srli_epi16(one, 8), _mm256_srli_epi16(other, 8)));
        }
      }
      for (int q = 0; q < Q; ++q) {
        const auto [step, offset] = given.rounded[size_t(q0 + q)];
        const __m256i even = _mm256_sub_epi16(both[q], _mm256_slli_epi16(odd[q], 8));
        const __m256i first = _mm256_unpacklo_epi16(even, odd[q]), last = _mm256_unpackhi_epi16(even, odd[q]);
        const __m128i eights[4] = {_mm256_castsi256_si128(first), _mm256_castsi256_si128(last),
                                   _mm256_extracti128_si256(first, 1), _mm256_extracti128_si256(last, 1)};
        for (int e = 0; e < 4; ++e)
          store(tile + (q0 + q) * kTileRows + r + 8 * e,
                add(mul(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(eights[e])), set1(step)), set1(offset)));
      }
    }
  }
#endif

  int64_t row_bytes_, words_;
};

}  // namespace embstore::EMBSTORE_ISA
