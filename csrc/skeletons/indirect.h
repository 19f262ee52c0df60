// The loops of methods whose rows lie where other bytes of the table say: ragged rows, rows in groups, shared blocks.
// A decode functor F has
//   int64_t dim, line_bytes;                           values per row; bytes touched per row, for the prefetch distance
//   void prefetch(int64_t id) const;                   asks for the bytes that say where the row lies
//   void follow(int64_t id) const;                     reads those, asks for the row itself
//   template <class Sink> void decode(int64_t id, Sink& sink) const;
//       calls sink.many(j, Floats) for Width values from column j, or sink.one(j, float), each column once
#pragma once
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

struct Rows {  // one rows array
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
  EMBSTORE_INLINE const uint8_t* operator[](int64_t id) const { return bases[id >> shift] + (id & mask) * row_bytes; }
  void prefetch_row(int64_t id) const { prefetch_bytes((*this)[id], row_bytes); }
  static void prefetch_bytes(const void* from, int64_t bytes) {
    const auto first = reinterpret_cast<uintptr_t>(from);
    for (uintptr_t line = first & ~uintptr_t(63); line < first + uintptr_t(bytes); line += 64)
      prefetch(reinterpret_cast<const void*>(line));
  }
};

template <class F>
class IndirectKernel final : public Kernel {
 public:
  explicit IndirectKernel(F f) : f_(f) {}

  void lookup(const int64_t* ids, int64_t n, float* out, bool) const noexcept override {
    over(ids, 0, n, [&](int64_t i) {
      StoreSink sink{out + i * f_.dim};
      f_.decode(ids[i], sink);
    });
  }

  void lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept override {
    over(ids, 0, n, [&](int64_t i) {
      HalfSink sink{out + i * f_.dim};
      f_.decode(ids[i], sink);
    });
  }

  void bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, const float* weights, BagMode mode,
           float* out) const noexcept override {
    std::memset(out + first * f_.dim, 0, size_t((last - first) * f_.dim) * 4);
    int64_t b = first;
    over(ids, offsets[first], offsets[last], [&](int64_t i) {
      while (i >= offsets[b + 1]) ++b;
      float* row = out + b * f_.dim;
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
    });
    if (mode != BagMode::kMean) return;
    for (b = first; b < last; ++b) {
      const int64_t length = offsets[b + 1] - offsets[b];
      if (length < 2) continue;
      for (int64_t j = 0; j < f_.dim; ++j) out[b * f_.dim + j] /= float(length);
    }
  }

 private:
  // Where a row lies is asked for `ahead` rows before it is decoded, the row itself half as many before.
  template <class Body>
  void over(const int64_t* ids, int64_t begin, int64_t end, Body body) const {
    const int64_t distance = ahead(f_);
    for (int64_t i = begin; i < begin + distance && i < end; ++i) f_.prefetch(ids[i]);
    for (int64_t i = begin; i < end; ++i) {
      if (i + distance < end) f_.prefetch(ids[i + distance]);
      if (i + distance / 2 < end) f_.follow(ids[i + distance / 2]);
      body(i);
    }
  }

  F f_;
};

}  // namespace embstore::EMBSTORE_ISA
