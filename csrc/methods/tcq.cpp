// Trellis-coded quantization: value j is levels[window of the row's bits that ends with the bits of j] * scale + offset.
// Every window is at a place that all rows share, so a row decodes like any other: two gathers for a vector of values.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

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
struct Places {
  std::vector<int32_t> byte, right, left;
  std::vector<float> scale, offset;
  int64_t row_bytes;
  int window;

  Places(const std::map<std::string, SharedArray>& shared, int64_t dim, int64_t bytes, int64_t bits_of_window)
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
  Rows codes;
  int64_t dim, line_bytes;
  const float* table;
  std::shared_ptr<const Places> owner;
  // Copies of what `owner` holds: one load less in the loop.
  const int32_t *byte, *right, *left;
  const float *scale, *offset;
  int64_t row_bytes;
  uint32_t mask;

  explicit TcqDecode(const TableView& t)
      : codes(t, "codes"), dim(t.embedding_dim), line_bytes(codes.row_bytes), row_bytes(codes.row_bytes) {
    const int64_t window = t.params.integer("window", 0);
    if (window < 1 || window > 16) throw std::invalid_argument("window of tcq must be between 1 and 16");
    table = reinterpret_cast<const float*>(bytes_of(t.shared, "table", int64_t(4) << window));
    owner = std::make_shared<Places>(t.shared, dim, row_bytes, window);
    byte = owner->byte.data(), right = owner->right.data(), left = owner->left.data();
    scale = owner->scale.data(), offset = owner->offset.data();
    mask = (1u << window) - 1;
  }
  void prefetch(int64_t id) const { codes.prefetch_row(id); }
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  bool one_block() const { return row_bytes >= 4; }
#else
  bool one_block() const { return false; }
#endif

  template <int N = 0, class Sink>
  void decode(int64_t id, Sink& sink) const {
    const uint8_t* row = codes[id];
    const int64_t columns = N > 0 ? N * Width : dim;
    int64_t j = 0;
#if defined(EMBSTORE_ISA_AVX512)
    const __m512i low = _mm512_set1_epi32(int(mask));
    for (; row_bytes >= 4 && j + Width <= columns; j += Width) {
      __m512i w = _mm512_i32gather_epi32(_mm512_loadu_si512(byte + j), row, 1);
      w = _mm512_sllv_epi32(_mm512_srlv_epi32(w, _mm512_loadu_si512(right + j)), _mm512_loadu_si512(left + j));
      const Floats level = _mm512_i32gather_ps(_mm512_and_si512(w, low), table, 4);
      sink.many(j, add(mul(level, load(scale + j)), load(offset + j)));
    }
#elif defined(EMBSTORE_ISA_AVX2)
    const __m256i low = _mm256_set1_epi32(int(mask));
    auto ints = [](const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
    for (; row_bytes >= 4 && j + Width <= columns; j += Width) {
      __m256i w = _mm256_i32gather_epi32(reinterpret_cast<const int*>(row), ints(byte + j), 1);
      w = _mm256_sllv_epi32(_mm256_srlv_epi32(w, ints(right + j)), ints(left + j));
      const Floats level = _mm256_i32gather_ps(table, _mm256_and_si256(w, low), 4);
      sink.many(j, add(mul(level, load(scale + j)), load(offset + j)));
    }
#endif
    for (; j < columns; ++j) {
      uint32_t word = 0;
      std::memcpy(&word, row + byte[j], size_t(row_bytes < 4 ? row_bytes : 4));
      sink.one(j, table[((word >> right[j]) << left[j]) & mask] * scale[j] + offset[j]);
    }
  }
};

std::unique_ptr<Kernel> kernel(const TableView& t) { return std::make_unique<RowKernel<TcqDecode>>(TcqDecode(t)); }

// Halves `n` costs: the smaller of each two and where it came from, the first of equals.
inline void halve(const float* __restrict cost, const int32_t* __restrict from, int64_t n, float* __restrict out,
                  int32_t* __restrict out_from) {
  for (int64_t i = 0; i < n / 2; ++i) {
    const float a = cost[2 * i], b = cost[2 * i + 1];
    const bool second = b < a;
    out[i] = second ? b : a;
    out_from[i] = second ? from[2 * i + 1] : from[2 * i];
  }
}

inline void branch(const float* __restrict least, const float* __restrict values, float x, int64_t n,
                   float* __restrict cost) {
  for (int64_t i = 0; i < n; ++i) {
    const float away = x - values[i];
    cost[i] = least[i] + away * away;
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
        spare_from_(size_t(states_)),
        numbers_(size_t(states_)),
        values_(size_t(states_ * dim)) {
    const auto* table = reinterpret_cast<const float*>(bytes_of(job.shared, "table", 4 * states_));
    for (int64_t i = 0; i < states_; ++i) numbers_[size_t(i)] = int32_t(i);
    int64_t steps = 0;
    for (int64_t j = 0; j < dim; ++j) {
      for (int64_t s = 0; s < states_; ++s)
        values_[size_t(j * states_ + s)] = table[s] * places_.scale[size_t(j)] + places_.offset[size_t(j)];
      steps += states_ >> bits_[j];
    }
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
      const int32_t* from = numbers_.data();
      for (int64_t n = states_; n > rest; n /= 2) {
        halve(cost_.data(), from, n, spare_.data(), spare_from_.data());
        cost_.swap(spare_), from_.swap(spare_from_);
        from = from_.data();
      }
      std::copy_n(from, rest, came_from_.begin() + at);
      for (int64_t code = 0; code < int64_t(1) << k; ++code)
        branch(cost_.data(), values_.data() + j * states_ + code * rest, x[j], rest, spare_.data() + code * rest);
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
      state = came_from_[size_t(at + state % rest)];
    }
  }

 private:
  Places places_;
  const uint8_t* bits_;
  int64_t dim_, states_;
  std::vector<float> cost_, spare_;
  std::vector<int32_t> from_, spare_from_, numbers_, came_from_;
  std::vector<float> values_;
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
