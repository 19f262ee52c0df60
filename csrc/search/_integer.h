// Scorers of uniform codes: inner products in integers, of the codes as they are with a query rounded to signed bytes.
//
// A row is, block by block, value = code * scale + offset; signed codes are taken as unsigned ones plus an offset of
// -middle * scale. With the query q rounded to t * i, i integers, its product with the row is
//   t * sum over blocks of (scale * <i, code> + offset * sum(i))
// which is exact but for the rounding of q: at most t / 2 a value, t = max |q| / kLargest.
//
// Rows are taken in groups, their codes turned so that a register holds four codes of each of its rows: sums then lie
// one row a lane, and need no adding up across lanes. Turning a group costs about as much as scoring it for 4 queries.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/search.h"
#include "core/widen.h"
#include "methods/_one_step.h"
#include "search/_dot.h"
#include "search/_sums.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

// Unpack codes [first, first + n) of a row to bytes; `first` begins a byte. Loops the compiler turns into shuffles.
template <int Bits>
struct Unpack {
  static constexpr int kBits = Bits;
  static void codes(const uint8_t* row, int64_t first, int64_t n, uint8_t* __restrict out) {
    constexpr int per = 8 / Bits, mask = (1 << Bits) - 1;
    row += first / per;
    const int64_t whole = n / per;
    // A word for each byte: byte k of it gets the byte shifted by k codes.
    using Word = std::conditional_t<per == 4, uint32_t, std::conditional_t<per == 2, uint16_t, uint8_t>>;
    auto* words = reinterpret_cast<Word*>(out);
    for (int64_t i = 0; i < whole; ++i) {
      uint32_t word = 0;
      for (int k = 0; k < per; ++k) word |= uint32_t(row[i]) << (k * (8 - Bits));
      words[i] = Word(word & uint32_t(mask * 0x01010101u));
    }
    for (int64_t j = whole * per; j < n; ++j) out[j] = uint8_t((row[j / per] >> (j % per * Bits)) & mask);
  }
};

#if defined(EMBSTORE_ISA_AVX512)

template <int Bits>
constexpr int kLargest = 127;

// 64 codes of each of 16 rows, `stride` bytes apart, to 16 registers of 4 codes of each row.
inline void turn(const uint8_t* rows, int64_t stride, uint8_t* out) {
  Sums columns[16];
  for (int i = 0; i < 16; ++i) columns[i] = _mm512_load_si512(rows + i * stride);
  turn(columns);
  for (int i = 0; i < 16; ++i) _mm512_store_si512(out + 64 * i, columns[i]);
}

#elif defined(EMBSTORE_ISA_AVX2)

// See add_products.
template <int Bits>
constexpr int kLargest = Bits == 8 ? 64 : 127;

inline void turn(const uint8_t* rows, int64_t stride, uint8_t* out) {
  __m256i a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = four_columns(rows + i * stride);
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; ++k) {
      a[i + 2 * k] = _mm256_unpacklo_epi64(b[i + k], b[i + 2 + k]);
      a[i + 2 * k + 1] = _mm256_unpackhi_epi64(b[i + k], b[i + 2 + k]);
    }
  for (int c = 0; c < 4; ++c) {
    auto* to = reinterpret_cast<__m256i*>(out);
    _mm256_store_si256(to + c, _mm256_permute2x128_si256(a[c], a[4 + c], 0x20));
    _mm256_store_si256(to + 4 + c, _mm256_permute2x128_si256(a[c], a[4 + c], 0x31));
  }
}

#else

template <int Bits>
constexpr int kLargest = 127;

#endif

// Queries rounded to bytes, laid out as unpacked rows are: each block filled up to a multiple of four values.
struct Bytes final : Scorer::Prepared {
  int64_t count;
  std::vector<int8_t> values;  // count x stride
  std::vector<float> steps;    // t of each query
  std::vector<float> sums;     // count x blocks: the sum of i over the block
};

// 64-byte aligned memory of a thread, kept between tiles.
template <class T>
struct Room {
  std::vector<T> memory;
  T* of(int64_t count) {
    if (int64_t(memory.size()) < count + 64) memory.assign(size_t(count + 64), T(0));
    const auto at = (reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t(63);
    return reinterpret_cast<T*>(at);
  }
};

template <int Bits>
class IntegerScorer final : public Scorer {
 public:
  explicit IntegerScorer(const TableView& t)
      : one_step_(with_scale_by_row(t)),
        symmetric_(t.params.integer("symmetric", 0) != 0),
        half_(one_step_ == nullptr && t.params.is("scale_dtype", "float16")),
        arrays_(one_step_ == nullptr ? t : *one_step_, {"codes", symmetric_ ? "scale" : "affine"}),
        dim_(t.embedding_dim),
        block_(one_step_ == nullptr ? std::min(t.params.integer("block_size", dim_), dim_) : dim_),
        blocks_((dim_ + block_ - 1) / block_),
        padded_((block_ + 3) / 4 * 4),
        stride_((blocks_ * padded_ + 63) / 64 * 64) {}

  std::unique_ptr<Prepared> prepare(const float* queries, int64_t count) const override {
    auto made = std::make_unique<Bytes>();
    made->count = count;
    made->values.assign(size_t(count * stride_), 0);
    made->sums.resize(size_t(count * blocks_));
    for (int64_t q = 0; q < count; ++q) {
      const float* query = queries + q * dim_;
      float top = 0.0f;
      for (int64_t j = 0; j < dim_; ++j) top = std::max(top, std::fabs(query[j]));
      // An infinite query, which transforms may make of a finite one, scores zero everywhere.
      const bool usable = top > 0.0f && top <= std::numeric_limits<float>::max();
      made->steps.push_back(usable ? top / float(kLargest<Bits>) : 0.0f);
      const double inverse = usable ? double(kLargest<Bits>) / double(top) : 0.0;
      for (int64_t b = 0; b < blocks_; ++b) {
        int64_t sum = 0;
        for (int64_t j = b * block_; usable && j < std::min(dim_, (b + 1) * block_); ++j) {
          const auto value = int8_t(std::lrint(double(query[j]) * inverse));
          made->values[size_t(q * stride_ + b * padded_ + j - b * block_)] = value;
          sum += value;
        }
        made->sums[size_t(q * blocks_ + b)] = float(sum);
      }
    }
    return made;
  }

  void score(const Prepared& prepared, int64_t first, int64_t count, float* tile) const noexcept override {
    const auto& given = static_cast<const Bytes&>(prepared);
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
    for (int64_t r = 0; r < count; r += kGroup) {
      const Group group = load(first + r, std::min(kGroup, count - r));
      int64_t q = 0;
      for (; q + kQueries <= given.count; q += kQueries) products<kQueries>(group, given, q, tile + r);
      for (; q < given.count; ++q) products<1>(group, given, q, tile + r);
    }
#else
    thread_local Room<uint8_t> codes;
    thread_local Room<float> steps;
    uint8_t* row = codes.of(stride_);
    float* scales = steps.of(2 * blocks_);
    float* offsets = scales + blocks_;
    for (int64_t r = 0; r < count; ++r) {
      unpack(first + r, row);
      for (int64_t b = 0; b < blocks_; ++b) read_steps(first + r, b, scales + b, offsets + b);
      for (int64_t q = 0; q < given.count; ++q) {
        const int8_t* query = given.values.data() + q * stride_;
        float total = 0.0f;
        for (int64_t b = 0; b < blocks_; ++b) {
          int32_t sum = 0;
          for (int64_t j = b * padded_; j < (b + 1) * padded_; ++j) sum += int32_t(row[j]) * int32_t(query[j]);
          total += scales[b] * float(sum) + offsets[b] * given.sums[size_t(q * blocks_ + b)];
        }
        tile[q * kTileRows + r] = total * given.steps[size_t(q)];
      }
    }
#endif
  }

 private:
  void unpack(int64_t id, uint8_t* out) const {
    const uint8_t* row = arrays_.place(id)[0];
    if (blocks_ == 1 || padded_ == block_) {
      Unpack<Bits>::codes(row, 0, dim_, out);
    } else {
      for (int64_t b = 0; b < blocks_; ++b)
        Unpack<Bits>::codes(row, b * block_, std::min(block_, dim_ - b * block_), out + b * padded_);
    }
    // Signed bytes plus 128; smaller codes are stored plus their middle.
    if (Bits == 8 && symmetric_)
      for (int64_t j = 0; j < stride_; ++j) out[j] ^= 0x80;
  }

  void read_steps(int64_t id, int64_t block, float* scale, float* offset) const {
    const uint8_t* row = arrays_.place(id)[1];
    const auto value = [&](int64_t i) {
      return half_ ? widen(reinterpret_cast<const uint16_t*>(row)[i]) : reinterpret_cast<const float*>(row)[i];
    };
    *scale = value(symmetric_ ? block : 2 * block);
    *offset = symmetric_ ? -float(1 << (Bits - 1)) * *scale : value(2 * block + 1);
  }

#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  static constexpr int kVectors = 2, kQueries = Width == 16 ? 8 : 4;  // sums in registers: kVectors * kQueries
  static constexpr int64_t kGroup = kVectors * kSumRows;

  struct Group {
    const uint8_t* codes;  // kVectors runs of stride_ / 4 registers
    const float* scales;   // blocks x kGroup
    const float* offsets;  // blocks x kGroup
  };

  // Rows [first, first + count), count <= kGroup; what is beyond them is left from earlier rows, and not looked at.
  Group load(int64_t first, int64_t count) const {
    thread_local Room<uint8_t> plain, turned;
    thread_local Room<float> steps;
    uint8_t* rows = plain.of(kSumRows * stride_);
    uint8_t* codes = turned.of(kGroup * stride_);
    float* scales = steps.of(2 * blocks_ * kGroup);
    float* offsets = scales + blocks_ * kGroup;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t n = std::min(kSumRows, count - v * kSumRows);
      if (n <= 0) break;
      for (int64_t r = 0; r < n; ++r) unpack(first + v * kSumRows + r, rows + r * stride_);
      for (int64_t j = 0; j < stride_; j += 4 * kSumRows) turn(rows + j, stride_, codes + (v * stride_ + j) * kSumRows);
    }
    for (int64_t r = 0; r < count; ++r)
      for (int64_t b = 0; b < blocks_; ++b) read_steps(first + r, b, scales + b * kGroup + r, offsets + b * kGroup + r);
    return {codes, scales, offsets};
  }

  template <int Q>
  void products(const Group& group, const Bytes& given, int64_t q0, float* tile) const {
    const int8_t* queries = given.values.data() + q0 * stride_;
    Floats totals[kVectors][Q];
    for (auto& vector : totals)
      for (auto& each : vector) each = set1(0.0f);
    for (int64_t b = 0; b < blocks_; ++b) {
      Sums sums[kVectors][Q];
      for (auto& vector : sums)
        for (auto& each : vector) each = no_sums();
      for (int64_t j = b * padded_; j < (b + 1) * padded_; j += 4) {
        Sums codes[kVectors];
        for (int v = 0; v < kVectors; ++v) codes[v] = four_columns(group.codes + (v * stride_ + j) * kSumRows);
        for (int q = 0; q < Q; ++q) {
          const Sums four = four_of_query(queries + q * stride_ + j);
          for (int v = 0; v < kVectors; ++v) sums[v][q] = add_products(sums[v][q], codes[v], four);
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        const Floats scales = ::embstore::EMBSTORE_ISA::load(group.scales + b * kGroup + v * kSumRows);
        const Floats offsets = ::embstore::EMBSTORE_ISA::load(group.offsets + b * kGroup + v * kSumRows);
        for (int q = 0; q < Q; ++q) {
          const Floats constant = set1(given.sums[size_t((q0 + q) * blocks_ + b)]);
          totals[v][q] = multiply_add(offsets, constant, totals[v][q]);
          totals[v][q] = multiply_add(scales, as_floats(sums[v][q]), totals[v][q]);
        }
      }
    }
    for (int q = 0; q < Q; ++q) {
      const Floats step = set1(given.steps[size_t(q0 + q)]);
      for (int v = 0; v < kVectors; ++v) store(tile + (q0 + q) * kTileRows + v * kSumRows, mul(totals[v][q], step));
    }
  }
#endif

  std::shared_ptr<const TableView> one_step_;  // null where scales are stored by row
  bool symmetric_, half_;
  RowArrays<2> arrays_;
  int64_t dim_, block_, blocks_;
  int64_t padded_;  // values of a block, filled up to a multiple of four
  int64_t stride_;  // bytes of an unpacked row
};

// Sums are int32: 2^31 / (255 * 127) values fit. Longer blocks have no integer scorer.
template <int Bits>
std::unique_ptr<Scorer> integer_scorer(const TableView& t) {
  if (std::min(t.params.integer("block_size", t.embedding_dim), t.embedding_dim) > 65536) return nullptr;
  return std::make_unique<IntegerScorer<Bits>>(t);
}

}  // namespace embstore::EMBSTORE_ISA
