// Residual quantization: a row is the sum of a codeword of each codebook, added in their order. `tables` has the
// codebooks as float32, `columns` the same with codewords as lanes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "methods/_code_rows.h"
#include "methods/_lanes.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <class Codes>
struct RqDecode {
  RowArrays<1> arrays;
  using Place = RowArrays<1>::Place;
  int64_t dim, line_bytes, m, count;
  Codes packed;
  const float* tables;

  explicit RqDecode(const TableView& t)
      : arrays(t, {"codes"}),
        dim(t.embedding_dim),
        line_bytes(arrays.row_bytes[0]),
        m(t.params.integer("m", 1)),
        count(int64_t(1) << t.params.integer("bits", 8)),
        packed(int(t.params.integer("bits", 8)), arrays.row_bytes[0]),
        tables(floats_of(t.shared, "tables", m * count * dim)) {}
  bool one_scale() const { return true; }

  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const uint8_t* row = place[0];
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    // Codes are read again for each run of columns: sums stay in registers.
    for (; j + 8 * Width <= dim; j += 8 * Width) {
      Floats sums[8];
      run(row, j, sums);
      for (int r = 0; r < 8; ++r) sink.many(j + r * Width, sums[r]);
    }
    for (; j + Width <= dim; j += Width) sink.many(j, vector(row, j));
#endif
    for (; j < dim; ++j) {
      float sum = word(row, 0)[j];
      for (int64_t s = 1; s < m; ++s) sum += word(row, s)[j];
      sink.one(j, sum);
    }
  }
#if !defined(EMBSTORE_ISA_REF)
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
#pragma GCC unroll 20
    for (int k = 0; k < N; ++k) body(k, vector(place[0], column_of<N, Group>(k, dim)));
  }
#endif

 private:
  EMBSTORE_INLINE const float* word(const uint8_t* row, int64_t s) const {
    return tables + (s * count + int64_t(packed.at(row, s))) * dim;
  }
#if !defined(EMBSTORE_ISA_REF)
  template <int R>
  EMBSTORE_INLINE void run(const uint8_t* row, int64_t j, Floats (&sums)[R]) const {
    const float* from = word(row, 0) + j;
    for (int r = 0; r < R; ++r) sums[r] = load(from + r * Width);
    for (int64_t s = 1; s < m; ++s) {
      from = word(row, s) + j;
      for (int r = 0; r < R; ++r) sums[r] = add(sums[r], load(from + r * Width));
    }
  }
  EMBSTORE_INLINE Floats vector(const uint8_t* row, int64_t j) const {
    Floats sums[1];
    run(row, j, sums);
    return sums[0];
  }
#endif
};

template <class Codes>
std::unique_ptr<Kernel> kernel_for(const TableView& t) {
  return std::make_unique<RowKernel<RqDecode<Codes>>>(RqDecode<Codes>(t));
}

std::unique_ptr<Kernel> kernel(const TableView& t) {
  check_codes(t, std::numeric_limits<int64_t>::max());
  const int64_t bits = t.params.integer("bits", 8);
  if (bits == 8) return kernel_for<ByteCodes>(t);
  if (bits == 4) return kernel_for<NibbleCodes>(t);
  return kernel_for<PackedCodes>(t);
}

// The best partial sums of one row, ascending by distance; of equals the one found first stays first.
class Beam {
 public:
  struct Entry {
    float distance;
    int32_t parent, code;
  };
  explicit Beam(int64_t width) : width_(width), entries_(size_t(width)) {}
  void clear() { size_ = 0; }
  int64_t size() const { return size_; }
  const Entry& operator[](int64_t i) const { return entries_[size_t(i)]; }
  float worst() const {
    return size_ < width_ ? std::numeric_limits<float>::infinity() : entries_[size_t(size_ - 1)].distance;
  }
  bool full() const { return size_ == width_; }
  void offer(float distance, int64_t parent, int64_t code) {
    if (full() && !(distance < worst())) return;
    int64_t at = full() ? size_ - 1 : size_++;
    for (; at > 0 && distance < entries_[size_t(at - 1)].distance; --at)
      entries_[size_t(at)] = entries_[size_t(at - 1)];
    entries_[size_t(at)] = {distance, int32_t(parent), int32_t(code)};
  }

 private:
  int64_t width_, size_ = 0;
  std::vector<Entry> entries_;
};

// Distances of B residuals (B x dim) to the codewords of one codebook: out is B x stride.
template <int B>
void distances(const float* rest, const float* columns, int64_t stride, int64_t dim, float* out) {
  for (int64_t c = 0; c < stride; c += kLanes) {
    Lanes sums[B] = {};
    for (int64_t j = 0; j < dim; ++j) {
      const Lanes column = lanes_at(columns + j * stride + c);
      for (int b = 0; b < B; ++b) {
        const Lanes away = rest[b * dim + j] - column;
        sums[b] += away * away;
      }
    }
    for (int b = 0; b < B; ++b) std::memcpy(out + b * stride + c, &sums[b], sizeof sums[b]);
  }
}

void encode(const EncodeJob& job, int64_t first, int64_t last) {
  constexpr int kTogether = 4;  // residuals that share each load of a codeword
  const int64_t dim = job.embedding_dim, m = job.params.integer("m", 1), width = job.params.integer("beam", 8);
  const int bits = int(job.params.integer("bits", 8));
  const int64_t count = int64_t(1) << bits, stride = (count + kLanes - 1) / kLanes * kLanes;
  const float* tables = floats_of(job.shared, "tables", m * count * dim);
  const float* columns = floats_of(job.shared, "columns", m * stride * dim);
  uint8_t* out = job.out.at("codes");
  const int64_t row_bytes = job.row_bytes.at("codes");
  std::vector<float> rest(size_t(width * dim)), next(size_t(width * dim)), tile(size_t(width * stride));
  std::vector<uint16_t> paths(size_t(width * m)), longer(size_t(width * m));
  Beam beam(width);
  for (int64_t i = first; i < last; ++i) {
    const float* x = job.rows + i * dim;
    std::fill(paths.begin(), paths.end(), uint16_t(0));
    const bool finite = std::all_of(x, x + dim, [](float v) { return std::isfinite(v); });
    std::copy(x, x + dim, rest.begin());
    for (int64_t s = 0, size = 1; finite && s < m; ++s, size = beam.size()) {
      const float* book = columns + s * dim * stride;
      int64_t b = 0;
      for (; b + kTogether <= size; b += kTogether)
        distances<kTogether>(rest.data() + b * dim, book, stride, dim, tile.data() + b * stride);
      for (; b < size; ++b) distances<1>(rest.data() + b * dim, book, stride, dim, tile.data() + b * stride);
      beam.clear();
      for (b = 0; b < size; ++b)
        for (int64_t c = 0; c < count; ++c) {
          const float d = tile[size_t(b * stride + c)];
          if (!(d >= beam.worst()) || !beam.full())
            beam.offer(d == d ? d : std::numeric_limits<float>::infinity(), b, c);
        }
      for (b = 0; b < beam.size(); ++b) {
        const auto& entry = beam[b];
        const float* from = rest.data() + entry.parent * dim;
        const float* word = tables + (s * count + entry.code) * dim;
        for (int64_t j = 0; j < dim; ++j) next[size_t(b * dim + j)] = from[j] - word[j];
        std::copy_n(paths.begin() + entry.parent * m, s, longer.begin() + b * m);
        longer[size_t(b * m + s)] = uint16_t(entry.code);
      }
      rest.swap(next);
      paths.swap(longer);
    }
    put_codes(out + i * row_bytes, paths.data(), m, bits);
  }
}

}  // namespace
EMBSTORE_REGISTER(rq, kernel, encode);
}  // namespace embstore::EMBSTORE_ISA
