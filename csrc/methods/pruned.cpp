// pruned: the values kept lie back to back, `start` says where a row's begin; which columns they are of is a bitmap
// or a list of ascending columns. A row whose stored numbers point outside the arrays decodes to zeros.
#include <array>

#include "methods/_stored.h"
#include "skeletons/indirect.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <class T>
inline T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// An item of 1, 2, 4 or 8 bytes.
inline uint64_t read_unsigned(const uint8_t* at, int64_t bytes) {
  if (bytes == 4) return read<uint32_t>(at);
  if (bytes == 1) return *at;
  return bytes == 2 ? read<uint16_t>(at) : read<uint64_t>(at);
}

inline uint64_t ones(const uint8_t* bits, int64_t bytes) {
  uint64_t total = 0;
  for (; bytes >= 8; bytes -= 8, bits += 8) total += uint64_t(__builtin_popcountll(read<uint64_t>(bits)));
  for (; bytes > 0; --bytes, ++bits) total += uint64_t(__builtin_popcount(*bits));
  return total;
}

// Where the values of rows begin, and the row's scale: 1 where there is none.
template <class T>
struct Kept {
  Rows start, scales;
  const typename T::Item* values;
  uint64_t total;
  bool scaled;

  explicit Kept(const TableView& t)
      : start(t, "start"),
        values(reinterpret_cast<const typename T::Item*>(t.shared.at("values").data)),
        total(uint64_t(t.shared.at("values").nbytes) / sizeof(typename T::Item)),
        scaled(t.rows.count("scale") != 0) {
    if (scaled) scales = Rows(t, "scale");
  }
  uint64_t first(int64_t id) const { return read_unsigned(start[id], start.row_bytes); }
  bool holds(uint64_t first, uint64_t count) const { return first <= total && count <= total - first; }
  float scale(int64_t id) const { return scaled ? half_to_float(read<uint16_t>(scales[id])) : 1.0f; }
  void prefetch(int64_t id) const {
    ::embstore::EMBSTORE_ISA::prefetch(start[id]);
    if (scaled) ::embstore::EMBSTORE_ISA::prefetch(scales[id]);
  }
  void follow(int64_t id, int64_t bytes) const {
    const uintptr_t at = reinterpret_cast<uintptr_t>(values) + uintptr_t(first(id)) * sizeof(typename T::Item);
    for (uintptr_t line = at & ~uintptr_t(63); line < at + uintptr_t(bytes); line += 64)
      ::embstore::EMBSTORE_ISA::prefetch(reinterpret_cast<const void*>(line));
  }
};

#if defined(EMBSTORE_ISA_AVX2)
// For each byte of a bitmap, from which of the next values lane i takes its own.
struct Expansion {
  alignas(32) std::array<std::array<uint8_t, 8>, 256> from;
  constexpr Expansion() : from() {
    for (int bits = 0; bits < 256; ++bits)
      for (int lane = 0, next = 0; lane < 8; ++lane) {
        from[size_t(bits)][size_t(lane)] = uint8_t(next);
        next += (bits >> lane) & 1;
      }
  }
};
constexpr Expansion kExpansion;

inline Floats expand(Floats values, uint32_t bits) {
  const __m256i from = _mm256_cvtepu8_epi32(bytes8(kExpansion.from[bits].data()));
  const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), lanes), lanes);
  return _mm256_and_ps(_mm256_permutevar8x32_ps(values, from), _mm256_castsi256_ps(set));
}
#endif

template <class T>
struct BitmapDecode {
  Kept<T> kept;
  Rows mask;
  int64_t dim, line_bytes, value_bytes;

  explicit BitmapDecode(const TableView& t) : kept(t), mask(t, "mask"), dim(t.embedding_dim) {
    const int64_t rows = t.num_embeddings < 1 ? 1 : t.num_embeddings;
    value_bytes = int64_t(kept.total) / rows * int64_t(sizeof(typename T::Item));
    line_bytes = mask.row_bytes + value_bytes + 64;
  }
  void prefetch(int64_t id) const {
    kept.prefetch(id);
    mask.prefetch_row(id);
  }
  void follow(int64_t id) const { kept.follow(id, value_bytes); }
  template <class Sink>
  void decode(int64_t id, Sink& sink) const {
    const int64_t end = dim;
    const uint8_t* bits = mask[id];
    const uint64_t at = kept.first(id);
    if (!kept.holds(at, ones(bits, mask.row_bytes))) return zeros(sink, end);
    const auto* values = kept.values + at;
    const float scale = kept.scale(id);
    int64_t j = 0;
#if defined(EMBSTORE_ISA_AVX512)
    const Floats scales = set1(scale);
#pragma GCC unroll 16
    for (; j + 16 <= end; j += 16) {
      const uint32_t set = read<uint16_t>(bits + j / 8);
      const int count = __builtin_popcount(set);
      const Floats packed = T::first(values, __mmask16((uint32_t(1) << count) - 1));
      sink.many(j, _mm512_maskz_expand_ps(__mmask16(set), kept.scaled ? mul(packed, scales) : packed));
      values += count;
    }
#elif defined(EMBSTORE_ISA_AVX2)
    const auto* const stop = kept.values + kept.total;
    const Floats scales = set1(scale);
    for (; j + 8 <= end; j += 8) {
      Floats packed;
      if (stop - values >= 8) {
        packed = T::many(values);
      } else {
        typename T::Item rest[8] = {};
        std::memcpy(rest, values, size_t(stop - values) * sizeof(rest[0]));
        packed = T::many(rest);
      }
      sink.many(j, expand(kept.scaled ? mul(packed, scales) : packed, bits[j / 8]));
      values += __builtin_popcount(bits[j / 8]);
    }
#endif
    for (; j < end; ++j) {
      const bool set = (bits[j / 8] >> (j % 8)) & 1;
      sink.one(j, !set ? 0.0f : kept.scaled ? T::one(*values) * scale : T::one(*values));
      values += set ? 1 : 0;
    }
  }

 private:
  template <class Sink>
  static void zeros(Sink& sink, int64_t end) {
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    for (; j + Width <= end; j += Width) sink.many(j, set1(0.0f));
#endif
    for (; j < end; ++j) sink.one(j, 0.0f);
  }
};

template <class T>
struct ColumnsDecode {
  Kept<T> kept;
  Rows count;
  const uint8_t* columns;
  int64_t column_bytes;
  uint64_t columns_total;
  int64_t dim, line_bytes, value_bytes;

  explicit ColumnsDecode(const TableView& t)
      : kept(t),
        count(t, "count"),
        columns(t.shared.at("columns").data),
        column_bytes(t.embedding_dim <= 1 << 8    ? 1
                     : t.embedding_dim <= 1 << 16 ? 2
                                                  : 4),
        columns_total(uint64_t(t.shared.at("columns").nbytes / column_bytes)),
        dim(t.embedding_dim) {
    const int64_t rows = t.num_embeddings < 1 ? 1 : t.num_embeddings;
    value_bytes = int64_t(kept.total) / rows * int64_t(sizeof(typename T::Item));
    line_bytes = value_bytes + 64;
  }
  void prefetch(int64_t id) const {
    kept.prefetch(id);
    count.prefetch_row(id);
  }
  void follow(int64_t id) const {
    kept.follow(id, value_bytes);
    ::embstore::EMBSTORE_ISA::prefetch(reinterpret_cast<const void*>(
        reinterpret_cast<uintptr_t>(columns) + uintptr_t(kept.first(id)) * uintptr_t(column_bytes)));
  }
  template <class Sink>
  void decode(int64_t id, Sink& sink) const {
    constexpr int64_t kTile = 256;
    uint64_t at = kept.first(id);
    uint64_t stop = at + read_unsigned(count[id], count.row_bytes);
    if (stop < at || !kept.holds(at, stop - at) || stop > columns_total) stop = at;
    const float scale = kept.scale(id);
    alignas(64) float tile[kTile];
    for (int64_t first = 0; first < dim; first += kTile) {
      const int64_t n = dim - first < kTile ? dim - first : kTile;
      std::memset(tile, 0, size_t(n) * 4);
      for (; at < stop; ++at) {
        const int64_t column = int64_t(read_unsigned(columns + int64_t(at) * column_bytes, column_bytes));
        if (column >= first + n) break;
        if (column < first) continue;  // not ascending: a damaged table
        const float value = T::one(kept.values[at]);
        tile[column - first] = kept.scaled ? value * scale : value;
      }
      int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
      for (; j + Width <= n; j += Width) sink.many(first + j, load(tile + j));
#endif
      for (; j < n; ++j) sink.one(first + j, tile[j]);
    }
  }
};

template <template <class> class Decode>
std::unique_ptr<Kernel> by_values(const TableView& t) {
  if (t.params.is("values", "float32"))
    return std::make_unique<IndirectKernel<Decode<StoredFloat>>>(Decode<StoredFloat>(t));
  if (t.params.is("values", "int8")) return std::make_unique<IndirectKernel<Decode<StoredByte>>>(Decode<StoredByte>(t));
  return std::make_unique<IndirectKernel<Decode<StoredHalf>>>(Decode<StoredHalf>(t));
}

std::unique_ptr<Kernel> pruned_kernel(const TableView& t) {
  return t.params.is("index", "columns") ? by_values<ColumnsDecode>(t) : by_values<BitmapDecode>(t);
}

}  // namespace
EMBSTORE_REGISTER(pruned, pruned_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
