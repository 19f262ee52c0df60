// Trellis-coded quantization: value j is levels[window of the row's bits that ends with the bits of j] * scale +
// offset. Every window is at a place that all rows share, so a row decodes like any other: two gathers for a vector of
// values.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "methods/_lanes.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

const uint8_t* bytes_of(const std::map<std::string, SharedArray>& shared, const char* name, int64_t nbytes) {
  auto at = shared.find(name);
  if (at == shared.end() || at->second.nbytes != nbytes)
    throw std::invalid_argument(std::string("the array ") + name + " of tcq is missing or of the wrong size");
  return at->second.data;
}

// Where the window of each value lies: (word at `byte` >> right << left) & mask. A word is 4 bytes, all in the row.
struct WindowPlaces {
  std::vector<int32_t> byte, right, left;
  std::vector<float> scale, offset;
  int64_t row_bytes;
  int window;

  WindowPlaces(const std::map<std::string, SharedArray>& shared, int64_t dim, int64_t bytes, int64_t bits_of_window)
      : row_bytes(bytes), window(int(bits_of_window)) {
    const uint8_t* bits = bytes_of(shared, "bits", dim);
    const auto* affine = reinterpret_cast<const float*>(bytes_of(shared, "affine", 8 * dim));
    int64_t end = 0;
    for (int64_t j = 0; j < dim; ++j) {
      if (bits[j] > window) throw std::invalid_argument("a value of tcq has more bits than the window");
      end += bits[j];
      const int64_t first = end - window;
      const int64_t at = std::max<int64_t>(0, std::min(first >> 3, row_bytes - 4));
      byte.push_back(int32_t(at));
      right.push_back(int32_t(first < 0 ? 0 : first - 8 * at));
      left.push_back(int32_t(first < 0 ? -first : 0));
      scale.push_back(affine[2 * j]);
      offset.push_back(affine[2 * j + 1]);
    }
    if (end > 8 * row_bytes) throw std::invalid_argument("the values of tcq have more bits than the row");
  }
};

struct TcqDecode {
  RowArrays<1> arrays;
  using Place = RowArrays<1>::Place;
  int64_t dim, line_bytes;
  const float* table;
  std::shared_ptr<const WindowPlaces> owner;
  // Copies of what `owner` holds: one load less in the loop.
  const int32_t *byte, *right, *left;
  const float *scale, *offset;
  int64_t row_bytes;
  uint32_t mask;

  explicit TcqDecode(const TableView& t)
      : arrays(t, {"codes"}), dim(t.embedding_dim), line_bytes(arrays.row_bytes[0]), row_bytes(arrays.row_bytes[0]) {
    const int64_t window = t.params.integer("window", 0);
    if (window < 1 || window > 16) throw std::invalid_argument("window of tcq must be between 1 and 16");
    table = reinterpret_cast<const float*>(bytes_of(t.shared, "table", int64_t(4) << window));
    owner = std::make_shared<WindowPlaces>(t.shared, dim, row_bytes, window);
    byte = owner->byte.data(), right = owner->right.data(), left = owner->left.data();
    scale = owner->scale.data(), offset = owner->offset.data();
    mask = (1u << window) - 1;
  }
#if defined(EMBSTORE_ISA_REF)
  bool one_scale() const { return false; }
#else
  bool one_scale() const { return row_bytes >= 4; }
#endif

  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const uint8_t* row = place[0];
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    for (; row_bytes >= 4 && j + Width <= dim; j += Width) sink.many(j, vector(row, j));
#endif
    for (; j < dim; ++j) sink.one(j, value(row, j, size_t(row_bytes < 4 ? row_bytes : 4)));
  }
#if !defined(EMBSTORE_ISA_REF)
  template <int N, int Group, class Body>
  EMBSTORE_INLINE void columns(const Place& place, Body body) const {
#pragma GCC unroll 20
    for (int k = 0; k < N; ++k) body(k, vector(place[0], column_of<N, Group>(k, dim)));
  }
#endif

 private:
  float value(const uint8_t* row, int64_t j, size_t word_bytes) const {
    uint32_t word = 0;
    std::memcpy(&word, row + byte[j], word_bytes);
    return table[((word >> right[j]) << left[j]) & mask] * scale[j] + offset[j];
  }
#if !defined(EMBSTORE_ISA_REF)
  // Columns j to j + Width of a row of 4 bytes or more.
  EMBSTORE_INLINE Floats vector(const uint8_t* row, int64_t j) const {
#if defined(EMBSTORE_ISA_AVX512)
    __m512i w = _mm512_i32gather_epi32(_mm512_loadu_si512(byte + j), row, 1);
    w = _mm512_sllv_epi32(_mm512_srlv_epi32(w, _mm512_loadu_si512(right + j)), _mm512_loadu_si512(left + j));
    const Floats level = _mm512_i32gather_ps(_mm512_and_si512(w, _mm512_set1_epi32(int(mask))), table, 4);
#elif defined(EMBSTORE_ISA_AVX2)
    auto ints = [](const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
    __m256i w = _mm256_i32gather_epi32(reinterpret_cast<const int*>(row), ints(byte + j), 1);
    w = _mm256_sllv_epi32(_mm256_srlv_epi32(w, ints(right + j)), ints(left + j));
    const Floats level = _mm256_i32gather_ps(table, _mm256_and_si256(w, _mm256_set1_epi32(int(mask))), 4);
#else
    float values[Width];
    for (int l = 0; l < Width; ++l) values[l] = value(row, j + l, 4);
    return load(values);
#endif
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
    return add(mul(level, load(scale + j)), load(offset + j));
#endif
  }
#endif
};

std::unique_ptr<Kernel> kernel(const TableView& t) { return std::make_unique<RowKernel<TcqDecode>>(TcqDecode(t)); }

// Halves `n` costs in place: the smaller of each two, the first of equals. `from` says for each of the n costs which of
// the originals it was, counted from the first it was chosen from; `span` is how many those were.
void halve(float* cost, int32_t* from, int64_t n, int32_t span) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Lanes low = lanes_at(cost + i), high = lanes_at(cost + i + kLanes);
    const Lanes first = EMBSTORE_LANES_EVEN(low, high), second = EMBSTORE_LANES_ODD(low, high);
    const LanePlaces nearer = second < first;
    put_lanes(cost + i / 2, nearer ? second : first);
    LanePlaces of_first = {}, of_second = LanePlaces{} + span;
    if (span > 1) {
      LanePlaces a, b;
      std::memcpy(&a, from + i, sizeof a);
      std::memcpy(&b, from + i + kLanes, sizeof b);
      of_first = EMBSTORE_LANES_EVEN(a, b), of_second += EMBSTORE_LANES_ODD(a, b);
    }
    put_lanes(from + i / 2, nearer ? of_second : of_first);
  }
  for (; i < n; i += 2) {
    const bool nearer = cost[i + 1] < cost[i];
    const int32_t of_first = span > 1 ? from[i] : 0, of_second = span + (span > 1 ? from[i + 1] : 0);
    cost[i / 2] = nearer ? cost[i + 1] : cost[i];
    from[i / 2] = nearer ? of_second : of_first;
  }
}

// cost[s] = least[s % rest] + (x - level of s)^2 for every state s; both counts are powers of two.
void branch(const float* least, int64_t rest, const float* table, float scale, float offset, float x, int64_t states,
            float* cost) {
  float repeated[kLanes];
  if (rest < kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) repeated[l] = least[l & (rest - 1)];
    least = repeated, rest = kLanes;
  }
  for (int64_t s = 0; s < states; s += kLanes) {
    const Lanes away = x - (lanes_at(table + s) * scale + offset);
    put_lanes(cost + s, lanes_at(least + (s & (rest - 1))) + away * away);
  }
}

// The Viterbi algorithm: of the states that lead to the same rest of a window the cheapest survives.
class Trellis {
 public:
  Trellis(const EncodeJob& job, int64_t dim)
      : places_(job.shared, dim, job.row_bytes.at("codes"), job.params.integer("window", 0)),
        bits_(bytes_of(job.shared, "bits", dim)),
        dim_(dim),
        states_(int64_t(1) << places_.window),
        cost_(size_t(states_)),
        spare_(size_t(states_)),
        from_(size_t(states_)),
        table_(reinterpret_cast<const float*>(bytes_of(job.shared, "table", 4 * states_))) {
    int64_t steps = 0;
    for (int64_t j = 0; j < dim; ++j) steps += states_ >> bits_[j];
    came_from_.resize(size_t(steps));
  }

  // row: zeroed bytes.
  void encode(const float* x, uint8_t* row) {
    if (!std::all_of(x, x + dim_, [](float v) { return std::isfinite(v); })) return;
    std::fill(cost_.begin(), cost_.end(), std::numeric_limits<float>::infinity());
    cost_[0] = 0.0f;
    int64_t at = 0, end = 0;
    for (int64_t j = 0; j < dim_; ++j) {
      const int k = bits_[j];
      if (k == 0) continue;
      const int64_t rest = states_ >> k;
      for (int64_t n = states_; n > rest; n /= 2) halve(cost_.data(), from_.data(), n, int32_t(states_ / n));
      std::copy_n(from_.begin(), rest, came_from_.begin() + at);
      branch(cost_.data(), rest, table_, places_.scale[size_t(j)], places_.offset[size_t(j)], x[j], states_,
             spare_.data());
      cost_.swap(spare_);
      at += rest, end += k;
    }
    int64_t state = std::min_element(cost_.begin(), cost_.end()) - cost_.begin();
    for (int64_t j = dim_ - 1; j >= 0; --j) {
      const int k = bits_[j];
      if (k == 0) continue;
      const int64_t rest = states_ >> k, code = state / rest;
      at -= rest, end -= k;
      for (int i = 0; i < k; ++i) row[(end + i) >> 3] |= uint8_t(((code >> i) & 1) << ((end + i) & 7));
      state = (state % rest << k) + came_from_[size_t(at + state % rest)];
    }
  }

 private:
  WindowPlaces places_;
  const uint8_t* bits_;
  int64_t dim_, states_;
  std::vector<float> cost_, spare_;
  std::vector<int32_t> from_, came_from_;
  const float* table_;
};

void encode(const EncodeJob& job, int64_t first, int64_t last) {
  const int64_t dim = job.embedding_dim, row_bytes = job.row_bytes.at("codes");
  uint8_t* out = job.out.at("codes") + first * row_bytes;
  std::memset(out, 0, size_t((last - first) * row_bytes));
  Trellis trellis(job, dim);
  for (int64_t i = first; i < last; ++i, out += row_bytes) trellis.encode(job.rows + i * dim, out);
}

}  // namespace
EMBSTORE_REGISTER(tcq, kernel, encode);
}  // namespace embstore::EMBSTORE_ISA
