// Product quantization: a row is the centroids its codes name, one after the other. `tables` has the centroids of each
// slice in turn, `columns` the same with centroids as lanes; both are made from the stored codebooks when they are
// bound.
#include <algorithm>
#include <vector>

#include "methods/_code_rows.h"
#include "methods/_nearest.h"

namespace embstore::EMBSTORE_ISA {
namespace {

#if !defined(EMBSTORE_ISA_REF)
// Width values from slices of N values each: at(i) is where the i-th lies.
template <int N, class At>
inline Floats join(At at) {
#if defined(EMBSTORE_ISA_AVX512)
  if constexpr (N == 8) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(at(0))), _mm256_loadu_ps(at(1)), 1);
  } else if constexpr (N == 4) {
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at(0))), _mm_loadu_ps(at(1)), 1);
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at(2))), _mm_loadu_ps(at(3)), 1);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  } else if constexpr (N == 2) {
    auto two = [&](int i) {
      return _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(reinterpret_cast<const double*>(at(i))),
                                        reinterpret_cast<const double*>(at(i + 1))));
    };
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(two(0)), two(2), 1);
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(two(4)), two(6), 1);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  } else {
    return _mm512_setr_ps(*at(0), *at(1), *at(2), *at(3), *at(4), *at(5), *at(6), *at(7), *at(8), *at(9), *at(10),
                          *at(11), *at(12), *at(13), *at(14), *at(15));
  }
#elif defined(EMBSTORE_ISA_AVX2)
  if constexpr (N == 4) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at(0))), _mm_loadu_ps(at(1)), 1);
  } else if constexpr (N == 2) {
    auto two = [&](int i) {
      return _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(reinterpret_cast<const double*>(at(i))),
                                        reinterpret_cast<const double*>(at(i + 1))));
    };
    return _mm256_insertf128_ps(_mm256_castps128_ps256(two(0)), two(2), 1);
  } else {
    return _mm256_setr_ps(*at(0), *at(1), *at(2), *at(3), *at(4), *at(5), *at(6), *at(7));
  }
#else
  if constexpr (N == 2) {
    return vcombine_f32(vld1_f32(at(0)), vld1_f32(at(1)));
  } else {
    const float lanes[4] = {*at(0), *at(1), *at(2), *at(3)};
    return vld1q_f32(lanes);
  }
#endif
}
#endif

// SLICE: values of every slice; 0 where they differ or no vector fits them.
template <class Codes, int SLICE>
struct PqDecode {
  RowArrays<1> arrays;
  using Place = RowArrays<1>::Place;
  int64_t dim, line_bytes, m, count;
  Codes packed;
  const float* tables;

  // Not in a base shared with rq: GCC then inlines otherwise, and lookups of 4-bit codes are a quarter slower.
  explicit PqDecode(const TableView& t)
      : arrays(t, {"codes"}),
        dim(t.embedding_dim),
        line_bytes(arrays.row_bytes[0]),
        m(t.params.integer("m", 1)),
        count(int64_t(1) << t.params.integer("bits", 8)),
        packed(int(t.params.integer("bits", 8)), arrays.row_bytes[0]),
        tables(floats_of(t.shared, "tables", count * dim)) {}
  bool one_scale() const { return SLICE > 0; }

  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const uint8_t* row = place[0];
    if constexpr (SLICE > 0) {
      int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
#pragma GCC unroll 16
      for (; j + Width <= dim; j += Width) sink.many(j, vector(row, j));
#endif
      for (; j < dim; ++j) sink.one(j, slice(row, j / SLICE)[j % SLICE]);
    } else {
      for (int64_t s = 0; s < m; ++s) {
        int64_t j = s * dim / m;
        const int64_t end = (s + 1) * dim / m;
        const float* from = tables + j * count + int64_t(packed.at(row, s)) * (end - j) - j;
#if !defined(EMBSTORE_ISA_REF)
        for (; j + Width <= end; j += Width) sink.many(j, load(from + j));
#endif
        for (; j < end; ++j) sink.one(j, from[j]);
      }
    }
  }
#if !defined(EMBSTORE_ISA_REF)
  template <int N, int Group, class Body>
  void columns(const Place& place, Body body) const {
    for (int k = 0; k < N; ++k) body(k, called_vector(place[0], column_of<N, Group>(k, dim)));
  }
#endif

 private:
  EMBSTORE_INLINE const float* slice(const uint8_t* row, int64_t s) const {
    return tables + (s * count + int64_t(packed.at(row, s))) * SLICE;
  }
#if !defined(EMBSTORE_ISA_REF)
  // Columns j to j + Width, j a multiple of what a slice and a vector have in common.
  EMBSTORE_INLINE Floats vector(const uint8_t* row, int64_t j) const {
    if constexpr (SLICE == 0) {
      return load(tables + j);  // never asked for: one_scale is false
    } else if constexpr (SLICE < Width) {
      return join<SLICE>([&](int i) { return slice(row, j / SLICE + i); });
    } else {
      return load(slice(row, j / SLICE) + j % SLICE);
    }
  }
  // Called rather than inlined: bags of every width times 18 kinds of codes would compile for ten minutes.
  __attribute__((noinline)) Floats called_vector(const uint8_t* row, int64_t j) const { return vector(row, j); }
#endif
};

template <class Codes>
std::unique_ptr<Kernel> kernel_for(const TableView& t) {
  const int64_t m = t.params.integer("m", 1), slice = t.embedding_dim % m == 0 ? t.embedding_dim / m : 0;
  switch (slice) {
    case 1:
      return std::make_unique<RowKernel<PqDecode<Codes, 1>>>(PqDecode<Codes, 1>(t));
    case 2:
      return std::make_unique<RowKernel<PqDecode<Codes, 2>>>(PqDecode<Codes, 2>(t));
    case 4:
      return std::make_unique<RowKernel<PqDecode<Codes, 4>>>(PqDecode<Codes, 4>(t));
    case 8:
      return std::make_unique<RowKernel<PqDecode<Codes, 8>>>(PqDecode<Codes, 8>(t));
    case 16:
      return std::make_unique<RowKernel<PqDecode<Codes, 16>>>(PqDecode<Codes, 16>(t));
    default:
      return std::make_unique<RowKernel<PqDecode<Codes, 0>>>(PqDecode<Codes, 0>(t));
  }
}

std::unique_ptr<Kernel> kernel(const TableView& t) {
  check_codes(t, t.embedding_dim);
  const int64_t bits = t.params.integer("bits", 8);
  if (bits == 8) return kernel_for<ByteCodes>(t);
  if (bits == 4) return kernel_for<NibbleCodes>(t);
  return kernel_for<PackedCodes>(t);
}

void encode(const EncodeJob& job, int64_t first, int64_t last) {
  const int64_t dim = job.embedding_dim, m = job.params.integer("m", 1);
  const int bits = int(job.params.integer("bits", 8));
  const int64_t count = int64_t(1) << bits, widest = (dim + m - 1) / m;
  const float* tables = floats_of(job.shared, "tables", count * dim);
  uint8_t* out = job.out.at("codes");
  const int64_t row_bytes = job.row_bytes.at("codes");
  std::vector<uint16_t> codes(size_t(kNearestRows * m));
  std::vector<float> turned(size_t(kNearestRows * widest));
  for (int64_t at = first; at < last; at += kNearestRows) {
    const int64_t n = std::min(kNearestRows, last - at);
    for (int64_t s = 0; s < m; ++s) {
      const int64_t j = s * dim / m, size = (s + 1) * dim / m - j;
      // Lanes beyond the last row keep what an earlier slice left there: they are not looked at.
      for (int64_t r = 0; r < n; ++r)
        for (int64_t i = 0; i < size; ++i) turned[size_t(i * kNearestRows + r)] = job.rows[(at + r) * dim + j + i];
      uint16_t found[kNearestRows];
      const auto search = size == 1   ? nearest<1>
                          : size == 2 ? nearest<2>
                          : size == 4 ? nearest<4>
                          : size == 8 ? nearest<8>
                                      : nearest<0>;
      search(turned.data(), tables + j * count, count, size, found);
      for (int64_t r = 0; r < n; ++r) codes[size_t(r * m + s)] = found[r];
    }
    for (int64_t r = 0; r < n; ++r) put_codes(out + (at + r) * row_bytes, codes.data() + r * m, m, bits);
  }
}

}  // namespace
EMBSTORE_REGISTER(pq, kernel, encode);
}  // namespace embstore::EMBSTORE_ISA
