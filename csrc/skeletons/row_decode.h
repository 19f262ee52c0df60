// The loops shared by every method whose row decodes on its own. A decode functor F has
//   int64_t dim, line_bytes;                           values per row; bytes touched per row, for the prefetch distance
//   RowArrays<Count> arrays, or Ids;
//   template <class Sink> void decode(Place, Sink& sink) const;
//       calls sink.many(j, Floats) for Width values from column j, or sink.one(j, float); each column once, or twice
//       with the same value where Sink::kRepeat allows it
//   bool one_scale() const;                            the row is one block, and `columns` below works for its dim
//   template <int N, int Group, class Body> void columns(Place, Body body) const;
//       calls body(k, Floats) for k < N: the Width values from column_of<N, Group>(k, dim)
// Everything is in a namespace per instruction set: the same inline function compiled twice must never be merged.
#pragma once
#include <array>

#include "core/simd.h"
#include "core/table.h"

namespace embstore::EMBSTORE_ISA {

// The rows arrays a functor reads, all cut into the same shards. A Place is where one row lies in each.
template <int Count>
struct RowArrays {
  using Place = std::array<const uint8_t*, Count>;
  int shift = 0;
  int64_t mask = 0;
  std::array<const uint8_t* const*, Count> bases;
  std::array<int64_t, Count> row_bytes;
  int64_t steps = 0;  // of 64 bytes in a row of the first array
  bool straddles = false;

  RowArrays(const TableView& table, const std::array<const char*, Count>& names)
      : shift(table.shift), mask((int64_t(1) << table.shift) - 1) {
    for (size_t k = 0; k < Count; ++k) {
      const auto& array = table.rows.at(names[k]);
      bases[k] = array.bases.data();
      row_bytes[k] = array.row_bytes;
    }
    steps = (row_bytes[0] + 63) / 64;
    straddles = row_bytes[0] % 64 != 0;
    for (const uint8_t* base : table.rows.at(names[0]).bases)
      straddles = straddles || reinterpret_cast<uintptr_t>(base) % 64 != 0;
  }
  EMBSTORE_INLINE Place place(int64_t id) const {
    const int64_t shard = id >> shift, row = id & mask;
    Place at;
    for (size_t k = 0; k < Count; ++k) at[k] = bases[k][shard] + row * row_bytes[k];
    return at;
  }
  // The same number of prefetches for every row: a count that depends on where the row starts is a mispredicted
  // branch for each, and asking twice for one line costs less. Arrays but the first hold a few bytes a row.
  EMBSTORE_INLINE void prefetch_row(const Place& at) const {
    for (int64_t step = 0; step < steps; ++step) prefetch(at[0] + 64 * step);
    if (straddles) prefetch(at[0] + row_bytes[0] - 1);
    for (size_t k = 1; k < Count; ++k) prefetch(at[k]);
  }
};

// For functors of methods that store nothing by row: the place of a row is its id.
struct Ids {
  using Place = std::array<int64_t, 1>;
  Place place(int64_t id) const { return {id}; }
  void prefetch_row(const Place&) const {}
};

// Base of functors whose rows are not one block.
struct NoColumns {
  bool one_scale() const { return false; }
  template <int N, int Group, class Place, class Body>
  void columns(const Place&, Body) const {}
};

struct StoreSink {
  static constexpr bool kRepeat = true;
  float* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, v); }
#endif
  void one(int64_t j, float v) { out[j] = v; }
};

struct HalfSink {
  static constexpr bool kRepeat = true;
  uint16_t* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store_half(out + j, v); }
#endif
  void one(int64_t j, float v) { out[j] = float_to_half(v); }
};

struct AddSink {
  static constexpr bool kRepeat = false;
  float* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, add(load(out + j), v)); }
#endif
  void one(int64_t j, float v) { out[j] += v; }
};

struct WeightedSink {
  static constexpr bool kRepeat = false;
  float* out;
  float weight;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, add(load(out + j), mul(v, set1(weight)))); }
#endif
  void one(int64_t j, float v) { out[j] += v * weight; }
};

struct MaxSink {
  static constexpr bool kRepeat = true;
  float* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, max_nan(load(out + j), v)); }
#endif
  void one(int64_t j, float v) { out[j] = max_nan_one(out[j], v); }
};

#if !defined(EMBSTORE_ISA_REF)
// Where vector k of N starts when a whole row is held in registers. The last Group vectors end with the row and may
// overlap the ones before: a column held twice has the same value twice, so no dim needs a tail.
template <int N, int Group>
constexpr int64_t column_of(int k, int64_t dim) {
  return k < N - Group ? k * Width : dim - (N - k) * Width;
}
// Those vectors by pointer, the last Group from `tail` on: hidden from the compiler, which would keep each of their
// columns in a register of its own, and has too few.
template <int N, int Group, class Body>
EMBSTORE_INLINE void over_columns(const uint8_t* row, const uint8_t* tail, Body body) {
  asm("" : "+r"(tail));
#pragma GCC unroll 20
  for (int k = 0; k < N; ++k) k < N - Group ? body(k, row, k * Width) : body(k, tail, (k - (N - Group)) * Width);
}

// Calls body(at) for each vector of columns [j, end), `at` a multiple of Step; returns the first column left to do one
// by one. Where the sink takes a column twice, the last vector ends with the range.
template <class Sink, int Step, class Body>
inline int64_t over_vectors(int64_t j, int64_t end, Body body) {
  const int64_t first = j;
#pragma GCC unroll 16
  for (; j + Width <= end; j += Width) body(j);
  if (!Sink::kRepeat || j == end || end - first < Width || end % Step != 0) return j;
  body(end - Width);
  return end;
}

enum class Pool { kSum, kWeighted, kMax };
#endif

// About 2.5 KiB of codes in flight: enough to hide a memory access, few enough to stay within the fill buffers.
// Fewer than 8 rows do not hide it, at any width measured.
constexpr int64_t kAhead = 16;
template <class F>
int64_t ahead(const F& f) {
  const int64_t rows = 2560 / (f.line_bytes + 64);
  return rows < 8 ? 8 : rows > kAhead ? kAhead : rows;
}

template <class F>
using PlaceOf = typename decltype(F::arrays)::Place;

// The places of rows [begin, end) of `ids` in turn. Each is found once, when the row is prefetched, and kept until the
// row is decoded: finding it takes about as many instructions as decoding 16 columns.
template <class F>
class Places {
 public:
  Places(const F& f, const int64_t* ids, int64_t begin, int64_t end)
      : f_(f), ids_(ids), at_(begin), end_(end), distance_(ahead(f)) {
    for (int64_t i = begin; i < begin + distance_ && i < end; ++i) ask(i);
  }
  EMBSTORE_INLINE PlaceOf<F> next() {
    PlaceOf<F> place;
    for (size_t k = 0; k < place.size(); ++k) place[k] = ring_[k][uint64_t(at_) % kRing];
    if (at_ + distance_ < end_) ask(at_ + distance_);
    ++at_;
    return place;
  }

 private:
  EMBSTORE_INLINE void ask(int64_t i) {
    const PlaceOf<F> place = f_.arrays.place(ids_[i]);
    for (size_t k = 0; k < place.size(); ++k) ring_[k][uint64_t(i) % kRing] = place[k];
    f_.arrays.prefetch_row(place);
  }
  static constexpr uint64_t kRing = kAhead;

  const F f_;  // a copy: the compiler need not fear that a store to `out` changes it
  const int64_t* ids_;
  int64_t at_;
  const int64_t end_, distance_;
  // By array, not by place: GCC would compute the addresses of a place as one vector, with a slow 64-bit multiply.
  std::array<typename PlaceOf<F>::value_type, kRing> ring_[std::tuple_size_v<PlaceOf<F>>];
};

template <class F, class Body>
void over_rows(const F& f, const int64_t* ids, int64_t n, Body body) {
  Places<F> places(f, ids, 0, n);
  for (int64_t i = 0; i < n; ++i) body(i, places.next());
}

#if !defined(EMBSTORE_ISA_REF)
// Rows go through a buffer that stays in the first-level cache and leave it as whole aligned lines, so that any
// embedding_dim and any alignment of `out` can use stores that do not read the destination first.
template <class F>
void lookup_streaming(const F& f, const int64_t* ids, int64_t n, float* out) {
  constexpr int64_t kStage = 4096, kFlush = 2048;
  alignas(64) float stage[kStage + 16];
  int64_t fill = 0;
  int64_t head = int64_t((64 - (reinterpret_cast<uintptr_t>(out) & 63)) & 63) / 4;
  auto flush = [&](bool last) {
    int64_t from = 0;
    if (head > 0) {
      from = head < fill ? head : fill;
      for (int64_t j = 0; j < from; ++j) out[j] = stage[j];
      out += from;
      head -= from;
    }
    for (; from + 16 <= fill; from += 16, out += 16)
      for (int64_t j = 0; j < 16; j += Width) stream(out + j, load(stage + from + j));
    const int64_t rest = fill - from;
    if (last) {
      for (int64_t j = 0; j < rest; ++j) out[j] = stage[from + j];
    } else {
      std::memmove(stage, stage + from, size_t(rest) * 4);
    }
    fill = rest;
  };
  over_rows(f, ids, n, [&](int64_t, const PlaceOf<F>& place) {
    StoreSink sink{stage + fill};
    f.decode(place, sink);
    fill += f.dim;
    if (fill >= kFlush) flush(false);
  });
  flush(true);
  stream_end();
}
#endif

template <class F>
class RowKernel final : public Kernel {
 public:
  explicit RowKernel(F f) : f_(f) {}

  void lookup(const int64_t* ids, int64_t n, float* out, bool streaming) const noexcept override {
#if !defined(EMBSTORE_ISA_REF)
    if (streaming && f_.dim <= 2048) return lookup_streaming(f_, ids, n, out);
#endif
    (void)streaming;
    over_rows(f_, ids, n, [&](int64_t i, const PlaceOf<F>& place) {
      StoreSink sink{out + i * f_.dim};
      f_.decode(place, sink);
    });
  }

  void lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept override {
    over_rows(f_, ids, n, [&](int64_t i, const PlaceOf<F>& place) {
      HalfSink sink{out + i * f_.dim};
      f_.decode(place, sink);
    });
  }

  void bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, const float* weights, BagMode mode,
           float* out) const noexcept override {
#if !defined(EMBSTORE_ISA_REF)
    if (f_.one_scale() && f_.dim >= Width && f_.dim <= kHeld * Width) {
      if (mode == BagMode::kMax) return pool<Pool::kMax>(ids, offsets, first, last, weights, mode, out);
      if (weights != nullptr) return pool<Pool::kWeighted>(ids, offsets, first, last, weights, mode, out);
      return pool<Pool::kSum>(ids, offsets, first, last, weights, mode, out);
    }
#endif
    Places<F> places(f_, ids, offsets[first], offsets[last]);
    for (int64_t b = first; b < last; ++b) {
      float* row = out + b * f_.dim;
      std::memset(row, 0, size_t(f_.dim) * 4);
      for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i) {
        const PlaceOf<F> place = places.next();
        if (weights != nullptr) {
          WeightedSink sink{row, weights[i]};
          f_.decode(place, sink);
        } else if (mode == BagMode::kMax && i == offsets[b]) {
          StoreSink sink{row};
          f_.decode(place, sink);
        } else if (mode == BagMode::kMax) {
          MaxSink sink{row};
          f_.decode(place, sink);
        } else {
          AddSink sink{row};
          f_.decode(place, sink);
        }
      }
      const int64_t length = offsets[b + 1] - offsets[b];
      if (mode == BagMode::kMean && length > 1)
        for (int64_t j = 0; j < f_.dim; ++j) row[j] /= float(length);
    }
  }

 private:
#if !defined(EMBSTORE_ISA_REF)
  static constexpr int kHeld = 20;  // vectors of a row that are held in registers

  template <Pool P, class... Rest>
  void pool(Rest... rest) const {
    const int64_t vectors = (f_.dim + Width - 1) / Width;
    if (vectors <= 2) return held<P, 2, 1>(rest...);
    if (f_.dim < 4 * Width) return held<P, 4, 2>(rest...);
    if (vectors <= 4) return held<P, 4, 4>(rest...);
    if (vectors <= 8) return held<P, 8, 4>(rest...);
    if (vectors <= 12) return held<P, 12, 4>(rest...);
    if (vectors <= 16) return held<P, 16, 4>(rest...);
    return held<P, 20, 4>(rest...);
  }

  template <Pool P, int N, int Group>
  __attribute__((noinline)) void held(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last,
                                      const float* weights, BagMode mode, float* out) const {
    const F f = f_;
    Places<F> places(f, ids, offsets[first], offsets[last]);
    for (int64_t b = first; b < last; ++b) {
      Floats sums[N];
      for (int k = 0; k < N; ++k) sums[k] = set1(0.0f);
      int64_t i = offsets[b];
      if (P == Pool::kMax && i < offsets[b + 1]) {
        ++i;
        f.template columns<N, Group>(places.next(), [&](int k, Floats v) { sums[k] = v; });
      }
      for (; i < offsets[b + 1]; ++i) {
        const Floats weight = set1(P == Pool::kWeighted ? weights[i] : 1.0f);
        f.template columns<N, Group>(places.next(), [&](int k, Floats v) {
          sums[k] = P == Pool::kMax        ? max_nan(sums[k], v)
                    : P == Pool::kWeighted ? add(sums[k], mul(v, weight))
                                           : add(sums[k], v);
        });
      }
      const int64_t length = offsets[b + 1] - offsets[b];
      const bool divide = mode == BagMode::kMean && length > 1;
      for (int k = 0; k < N; ++k)
        store(out + b * f.dim + column_of<N, Group>(k, f.dim), divide ? div(sums[k], set1(float(length))) : sums[k]);
    }
  }
#endif

  F f_;
};

// Calls body(block, j0, j1) for each block of columns.
template <class Body>
inline void over_blocks(int64_t dim, int64_t block_size, Body body) {
  int64_t block = 0;
  for (int64_t j = 0; j < dim; j += block_size, ++block) body(block, j, j + block_size < dim ? j + block_size : dim);
}

}  // namespace embstore::EMBSTORE_ISA

#define EMBSTORE_REGISTER(id, kernel, encode) \
  static const bool registered_##id = ::embstore::register_method(#id, EMBSTORE_STRING(EMBSTORE_ISA), kernel, encode)
