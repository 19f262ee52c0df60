// pruned: the values kept lie back to back, `start` says where those of a row or of a run of rows begin; which columns
// they are of is a bitmap, a list of ascending columns, or one of ascending cells of the run. A row whose stored
// numbers point outside the arrays decodes to zeros.
#include <array>
#include <stdexcept>

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

// Where the values of runs of rows begin, and a row's scale: 1 where there is none.
template <class T>
struct Kept {
  Rows start, scales;
  SharedArray starts;  // in place of `start` where rows share one
  int64_t run, start_bytes;
  const typename T::Item* values;
  uint64_t total;
  bool scaled;

  explicit Kept(const TableView& t)
      : run(t.params.integer("rows_per_start", 1)),
        start_bytes(t.params.is("start_dtype", "uint64") ? 8 : 4),
        values(reinterpret_cast<const typename T::Item*>(t.shared.at("values").data)),
        total(uint64_t(t.shared.at("values").nbytes) / sizeof(typename T::Item)),
        scaled(t.rows.count("scale") != 0) {
    if (run == 1) {
      start = Rows(t, "start");
    } else {
      starts = t.shared.at("start");
      if (run < 1 || starts.nbytes / start_bytes < (t.num_embeddings + run - 1) / run)
        throw std::invalid_argument("each run of rows needs a start");
    }
    if (scaled) scales = Rows(t, "scale");
  }
  const uint8_t* start_at(int64_t id) const { return run == 1 ? start[id] : starts.data + (id / run) * start_bytes; }
  // Of the first row of the run that row id is in.
  uint64_t first(int64_t id) const { return read_unsigned(start_at(id), start_bytes); }
  // Behind the last row of it.
  uint64_t last(int64_t id) const { return (id / run + 1) * start_bytes < starts.nbytes ? first(id + run) : total; }
  bool holds(uint64_t first, uint64_t count) const { return first <= total && count <= total - first; }
  float scale(int64_t id) const { return scaled ? half_to_float(read<uint16_t>(scales[id])) : 1.0f; }
  void prefetch(int64_t id) const {
    ::embstore::EMBSTORE_ISA::prefetch(start_at(id));
    if (scaled) ::embstore::EMBSTORE_ISA::prefetch(scales[id]);
  }
  // Where in a run the values of a row are is known later: as far into it as rows of equal lengths would be.
  uint64_t about(int64_t id, int64_t row_items) const { return first(id) + uint64_t((id % run) * row_items); }
  void follow(int64_t id, int64_t bytes) const {
    const uint64_t item = about(id, bytes / int64_t(sizeof(typename T::Item)));
    const uintptr_t at = reinterpret_cast<uintptr_t>(values) + uintptr_t(item) * sizeof(typename T::Item);
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
    if (kept.run > 1) mask.prefetch_row(id - id % kept.run);
  }
  void follow(int64_t id) const { kept.follow(id, value_bytes); }
  template <class Sink>
  void decode(int64_t id, Sink& sink) const {
    const int64_t end = dim;
    const uint8_t* bits = mask[id];
    uint64_t at = kept.first(id);
    for (int64_t before = id - id % kept.run; before < id; ++before) at += ones(mask[before], mask.row_bytes);
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

// A row of zeros but for the values k of [at, stop), value_of(k) in column column_of(k); columns ascend.
template <class Sink, class Column, class Value>
inline void scatter(int64_t dim, uint64_t at, uint64_t stop, Column column_of, Value value_of, Sink& sink) {
  constexpr int64_t kTile = 256;
  alignas(64) float tile[kTile];
  for (int64_t first = 0; first < dim; first += kTile) {
    const int64_t n = dim - first < kTile ? dim - first : kTile;
    std::memset(tile, 0, size_t(n) * 4);
    for (; at < stop; ++at) {
      const int64_t column = column_of(at);
      if (column >= first + n) break;
      if (column < first) continue;  // not ascending: a damaged table
      tile[column - first] = value_of(at);
    }
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    for (; j + Width <= n; j += Width) sink.many(first + j, load(tile + j));
#endif
    for (; j < n; ++j) sink.one(first + j, tile[j]);
  }
}

inline int64_t column_bytes_of(int64_t columns) { return columns <= 1 << 8 ? 1 : columns <= 1 << 16 ? 2 : 4; }

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
        column_bytes(column_bytes_of(t.embedding_dim)),
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
    const uint64_t at = kept.first(id);
    uint64_t stop = at + read_unsigned(count[id], count.row_bytes);
    if (stop < at || !kept.holds(at, stop - at) || stop > columns_total) stop = at;
    const float scale = kept.scale(id);
    scatter(
        dim, at, stop,
        [&](uint64_t k) { return int64_t(read_unsigned(columns + int64_t(k) * column_bytes, column_bytes)); },
        [&](uint64_t k) { return kept.scaled ? T::one(kept.values[k]) * scale : T::one(kept.values[k]); }, sink);
  }
};

// Cell c of a run is column c % dim of its row c / dim.
template <class T>
struct CellsDecode {
  Kept<T> kept;
  const uint8_t* cells;
  int64_t cell_bytes;
  uint64_t cells_total;
  int64_t dim, line_bytes, value_bytes;

  explicit CellsDecode(const TableView& t)
      : kept(t),
        cells(t.shared.at("cells").data),
        cell_bytes(column_bytes_of(kept.run * t.embedding_dim)),
        cells_total(uint64_t(t.shared.at("cells").nbytes / cell_bytes)),
        dim(t.embedding_dim) {
    if (kept.run == 1) throw std::invalid_argument("cells need runs of two rows or more");
    const int64_t rows = t.num_embeddings < 1 ? 1 : t.num_embeddings;
    value_bytes = int64_t(kept.total) / rows * int64_t(sizeof(typename T::Item));
    line_bytes = value_bytes + 64;
  }
  void prefetch(int64_t id) const { kept.prefetch(id); }
  void follow(int64_t id) const {
    kept.follow(id, value_bytes);
    const uint64_t item = kept.about(id, value_bytes / int64_t(sizeof(typename T::Item)));
    ::embstore::EMBSTORE_ISA::prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(cells) + uintptr_t(item) * uintptr_t(cell_bytes)));
  }
  int64_t cell(uint64_t k) const { return int64_t(read_unsigned(cells + int64_t(k) * cell_bytes, cell_bytes)); }
  // The first in [low, high) whose cell is not below `wanted`.
  uint64_t search(uint64_t low, uint64_t high, int64_t wanted) const {
    while (low < high) {
      const uint64_t middle = low + (high - low) / 2;
      if (cell(middle) < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  template <class Sink>
  void decode(int64_t id, Sink& sink) const {
    const uint64_t low = kept.first(id), high = kept.last(id);
    const int64_t base = id % kept.run * dim;
    uint64_t at = 0, stop = 0;
    if (low <= high && high <= kept.total && high <= cells_total) {
      at = search(low, high, base);
      stop = search(at, high, base + dim);
    }
    const float scale = kept.scale(id);
    scatter(
        dim, at, stop, [&](uint64_t k) { return cell(k) - base; },
        [&](uint64_t k) { return kept.scaled ? T::one(kept.values[k]) * scale : T::one(kept.values[k]); }, sink);
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
  if (t.params.is("index", "cells")) return by_values<CellsDecode>(t);
  return t.params.is("index", "columns") ? by_values<ColumnsDecode>(t) : by_values<BitmapDecode>(t);
}

}  // namespace
EMBSTORE_REGISTER(pruned, pruned_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
