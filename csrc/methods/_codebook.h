// dynamic8 and nf4: value = table[code] * scale of the block. Scales are float32, float16 or (nf4) log codes of 8 bits.
#pragma once
#include <cmath>
#include <vector>

#include "core/half.h"
#include "methods/_codebook_code.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

enum class ScaleKind { kFloat, kHalf, kLog };

inline ScaleKind scale_kind(const Params& p) {
  return p.is("scale_dtype", "float16") ? ScaleKind::kHalf
         : p.is("scale_dtype", "uint8") ? ScaleKind::kLog
                                        : ScaleKind::kFloat;
}

// T: kTable size, kPerByte, one(table, row, j), and a class Vectors(table, scale) that decodes a block: many(row, j)
// with j a multiple of kPerByte, and where kTogether is more than 1, together(codes, body): body(k, Floats) for
// kTogether vectors of one byte a code.
template <class T>
struct CodebookDecode {
  RowArrays<2> arrays;
  int64_t dim, block_size, line_bytes;
  using Place = RowArrays<2>::Place;
  ScaleKind kind;
  const float* table;       // the method's values
  const float* log_scales;  // 256 decoded scales, shared; null unless kLog

  explicit CodebookDecode(const TableView& t)
      : arrays(t, {"codes", "scale"}),
        dim(t.embedding_dim),
        block_size(t.params.integer("block_size", t.embedding_dim)),
        line_bytes(arrays.row_bytes[0] + 64),
        kind(scale_kind(t.params)),
        table(reinterpret_cast<const float*>(t.shared.at("table").data)),
        log_scales(kind == ScaleKind::kLog ? reinterpret_cast<const float*>(t.shared.at("scale_values").data)
                                           : nullptr) {}
  float scale(const uint8_t* row, int64_t block) const {
    if (kind == ScaleKind::kFloat) return reinterpret_cast<const float*>(row)[block];
    if (kind == ScaleKind::kHalf) {
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
      return _cvtsh_ss(reinterpret_cast<const uint16_t*>(row)[block]);
#else
      return half_to_float(reinterpret_cast<const uint16_t*>(row)[block]);
#endif
    }
    return log_scales[row[block]];
  }
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const uint8_t* row = place[0];
    const uint8_t* scale_row = place[1];
    over_blocks(dim, block_size, [&](int64_t block, int64_t j, int64_t end) {
      const float s = scale(scale_row, block);
#if !defined(EMBSTORE_ISA_REF)
      const typename T::Vectors vectors(table, set1(s));
      for (; T::kTogether > 1 && j + T::kTogether * Width <= end; j += T::kTogether * Width)
        vectors.together(row + j, [&](int k, Floats v) { sink.many(j + k * Width, v); });
      j = over_vectors<Sink, T::kPerByte>(j, end, [&](int64_t at) { sink.many(at, vectors.many(row, at)); });
#endif
      for (; j < end; ++j) sink.one(j, T::one(table, row, j) * s);
    });
  }
#if !defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return block_size >= dim && dim % T::kPerByte == 0; }
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
    const uint8_t* row = place[0];
    const typename T::Vectors vectors(table, set1(scale(place[1], 0)));
    over_columns<N, Group>(row, row + (dim - Group * Width) / T::kPerByte, [&](int k, const uint8_t* from, int64_t j) {
      if constexpr (T::kTogether > 1 && T::kTogether == Group) {
        if (k % Group == 0) vectors.together(from + j, [&](int l, Floats v) { body(k + l, v); });
      } else {
        body(k, vectors.many(from, j));
      }
    });
  }
#endif
};

template <class T>
std::unique_ptr<Kernel> codebook_kernel(const TableView& t) {
  return std::make_unique<RowKernel<CodebookDecode<T>>>(CodebookDecode<T>(t));
}

template <class T>
void codebook_encode(const EncodeJob& job, int64_t first, int64_t last) {
  const int64_t dim = job.embedding_dim, block_size = job.params.integer("block_size", dim);
  const ScaleKind kind = scale_kind(job.params);
  const auto* midpoints = reinterpret_cast<const float*>(job.shared.at("midpoints").data);
  const float* log_scales =
      kind == ScaleKind::kLog ? reinterpret_cast<const float*>(job.shared.at("scale_values").data) : nullptr;
  const float* log_midpoints =
      kind == ScaleKind::kLog ? reinterpret_cast<const float*>(job.shared.at("scale_midpoints").data) : nullptr;
  uint8_t* codes = job.out.at("codes");
  uint8_t* scales = job.out.at("scale");
  const int64_t code_bytes = job.row_bytes.at("codes"), scale_bytes = job.row_bytes.at("scale");
  std::vector<uint8_t> buffer(size_t(block_size < dim ? block_size : dim));
  for (int64_t i = first; i < last; ++i)
    over_blocks(dim, block_size, [&](int64_t block, int64_t j, int64_t end) {
      const float* x = job.rows + i * dim + j;
      const int64_t n = end - j;
      float top = 0.0f, taint = 0.0f;
      for (int64_t k = 0; k < n; ++k) {
        const float a = x[k] < 0.0f ? -x[k] : x[k];
        top = a > top ? a : top;
        taint += x[k] * 0.0f;
      }
      const bool bad = taint != 0.0f;
      uint8_t* at = scales + i * scale_bytes;
      float scale = top;
      if (kind == ScaleKind::kLog) {
        int code = 0;  // 0 is a zero block, 255 a block with NaN or inf
        if (bad) {
          code = 255;
        } else if (top > 0.0f) {
          code = 1;
          for (int step = 128; step > 0; step /= 2)
            if (code - 1 + step <= 253 && log_midpoints[code - 1 + step - 1] < top) code += step;
        }
        at[block] = uint8_t(code);
        scale = bad ? 0.0f : log_scales[code];
      } else {
        const float stored = bad ? __builtin_nanf("") : top;
        if (kind == ScaleKind::kHalf) {
          const uint16_t h = float_to_half(stored);
          std::memcpy(at + 2 * block, &h, 2);
          scale = bad ? 0.0f : half_to_float(h);
        } else {
          std::memcpy(at + 4 * block, &stored, 4);
          scale = bad ? 0.0f : stored;
        }
      }
      for (int64_t k = 0; k < n; ++k) {
        const float t = codebook_value(x[k], scale);
        buffer[size_t(k)] = uint8_t(codebook_code<T::kTable>(midpoints, t));
      }
      T::put(codes + i * code_bytes, j, buffer.data(), n);
    });
}

}  // namespace embstore::EMBSTORE_ISA
