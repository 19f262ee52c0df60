// The loops shared by every method whose row decodes on its own. A decode functor F has
//   int64_t dim; int64_t line_bytes;                   values per row; bytes touched per row (sets the prefetch
//   distance) void prefetch(int64_t id) const; bool one_block() const;                            whether a row has a
//   single scale template <int N = 0, class Sink> void decode(int64_t id, Sink& sink) const;
//                                                      N > 0: dim is N * Width and the row is one block
// and calls sink.many(j, Floats) for Width values from column j, or sink.one(j, float), each column once.
// Everything is in a namespace per instruction set: the same inline function compiled twice must never be merged.
#pragma once
#include "core/simd.h"
#include "core/table.h"

namespace embstore::EMBSTORE_ISA {

struct Rows {  // one rows array, as the functors read it
  const uint8_t* const* bases = nullptr;
  int64_t row_bytes = 0;
  int shift = 0;
  int64_t mask = 0;

  Rows() = default;
  Rows(const TableView& table, const char* name) {
    const auto& array = table.rows.at(name);
    bases = array.bases.data();
    row_bytes = array.row_bytes;
    shift = table.shift;
    mask = (int64_t(1) << shift) - 1;
  }
  const uint8_t* operator[](int64_t id) const { return bases[id >> shift] + (id & mask) * row_bytes; }
  void prefetch_row(int64_t id) const {
    const uint8_t* at = (*this)[id];
    const auto first = reinterpret_cast<uintptr_t>(at) & ~uintptr_t(63);
    const auto end = reinterpret_cast<uintptr_t>(at) + uintptr_t(row_bytes);
    for (uintptr_t line = first; line < end; line += 64) prefetch(reinterpret_cast<const void*>(line));
  }
};

struct StoreSink {
  float* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, v); }
#endif
  void one(int64_t j, float v) { out[j] = v; }
};

struct HalfSink {
  uint16_t* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store_half(out + j, v); }
#endif
  void one(int64_t j, float v) { out[j] = float_to_half(v); }
};

struct AddSink {
  float* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, add(load(out + j), v)); }
#endif
  void one(int64_t j, float v) { out[j] += v; }
};

struct WeightedSink {
  float* out;
  float weight;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, add(load(out + j), mul(v, set1(weight)))); }
#endif
  void one(int64_t j, float v) { out[j] += v * weight; }
};

struct MaxSink {
  float* out;
#if !defined(EMBSTORE_ISA_REF)
  void many(int64_t j, Floats v) { store(out + j, max_nan(load(out + j), v)); }
#endif
  void one(int64_t j, float v) { out[j] = max_nan_one(out[j], v); }
};

#if !defined(EMBSTORE_ISA_REF)
// Sums of a bag in N registers: with N known, the decode loop unrolls and every column is a constant.
template <int N>
struct RegisterSink {
  Floats sums[N];
  void many(int64_t j, Floats v) { sums[j / Width] = add(sums[j / Width], v); }
  void one(int64_t, float) {}
};
#endif

// About 2.5 KiB of codes in flight: enough to hide a memory access, few enough to stay within the fill buffers.
template <class F>
int64_t ahead(const F& f) {
  const int64_t rows = 2560 / (f.line_bytes + 64);
  return rows < 4 ? 4 : rows > 16 ? 16 : rows;
}

template <class F, class Body>
void over_rows(const F& f, const int64_t* ids, int64_t n, Body body) {
  const int64_t distance = ahead(f);
  for (int64_t i = 0; i < distance && i < n; ++i) f.prefetch(ids[i]);
  for (int64_t i = 0; i < n; ++i) {
    if (i + distance < n) f.prefetch(ids[i + distance]);
    body(i);
  }
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
  over_rows(f, ids, n, [&](int64_t i) {
    StoreSink sink{stage + fill};
    f.decode(ids[i], sink);
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
    over_rows(f_, ids, n, [&](int64_t i) {
      StoreSink sink{out + i * f_.dim};
      f_.decode(ids[i], sink);
    });
  }

  void lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept override {
    over_rows(f_, ids, n, [&](int64_t i) {
      HalfSink sink{out + i * f_.dim};
      f_.decode(ids[i], sink);
    });
  }

  void bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, const float* weights, BagMode mode,
           float* out) const noexcept override {
#if !defined(EMBSTORE_ISA_REF)
    if (weights == nullptr && mode != BagMode::kMax && f_.one_block()) {
      if (f_.dim == 4 * Width) return bag_sums<4>(ids, offsets, first, last, mode, out);
      if (f_.dim == 8 * Width) return bag_sums<8>(ids, offsets, first, last, mode, out);
      if (f_.dim == 16 * Width) return bag_sums<16>(ids, offsets, first, last, mode, out);
    }
#endif
    const int64_t begin = offsets[first], end = offsets[last];
    const int64_t distance = ahead(f_);
    for (int64_t i = begin; i < begin + distance && i < end; ++i) f_.prefetch(ids[i]);
    for (int64_t b = first; b < last; ++b) {
      float* row = out + b * f_.dim;
      std::memset(row, 0, size_t(f_.dim) * 4);
      for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i) {
        if (i + distance < end) f_.prefetch(ids[i + distance]);
        if (weights != nullptr) {
          WeightedSink sink{row, weights[i]};
          f_.decode(ids[i], sink);
        } else if (mode == BagMode::kMax && i == offsets[b]) {
          StoreSink sink{row};
          f_.decode(ids[i], sink);
        } else if (mode == BagMode::kMax) {
          MaxSink sink{row};
          f_.decode(ids[i], sink);
        } else {
          AddSink sink{row};
          f_.decode(ids[i], sink);
        }
      }
      const int64_t length = offsets[b + 1] - offsets[b];
      if (mode == BagMode::kMean && length > 1)
        for (int64_t j = 0; j < f_.dim; ++j) row[j] /= float(length);
    }
  }

 private:
#if !defined(EMBSTORE_ISA_REF)
  template <int N>
  void bag_sums(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, BagMode mode,
                float* out) const {
    const F f = f_;  // a copy: the compiler need not fear that a store to `out` changes it
    const int64_t begin = offsets[first], end = offsets[last];
    const int64_t distance = ahead(f);
    for (int64_t i = begin; i < begin + distance && i < end; ++i) f.prefetch(ids[i]);
    for (int64_t b = first; b < last; ++b) {
      RegisterSink<N> sink;
      for (int k = 0; k < N; ++k) sink.sums[k] = set1(0.0f);
      for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i) {
        if (i + distance < end) f.prefetch(ids[i + distance]);
        f.template decode<N>(ids[i], sink);
      }
      const int64_t length = offsets[b + 1] - offsets[b];
      float* row = out + b * (N * Width);
      const bool divide = mode == BagMode::kMean && length > 1;
      for (int k = 0; k < N; ++k)
        store(row + k * Width, divide ? div(sink.sums[k], set1(float(length))) : sink.sums[k]);
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

#define EMBSTORE_STRING_(x) #x
#define EMBSTORE_STRING(x) EMBSTORE_STRING_(x)
#define EMBSTORE_REGISTER(id, kernel, encode) \
  static const bool registered_##id = ::embstore::register_method(#id, EMBSTORE_STRING(EMBSTORE_ISA), kernel, encode)
