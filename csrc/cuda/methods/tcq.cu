// Trellis-coded quantization: value j is levels[window of the row's bits that ends with the bits of j] * scale +
// offset. Every window is at a place that all rows share.
#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

struct Tcq {
  static constexpr int kColumns = 4, kInFlight = 2;
  static constexpr int64_t kCopied = 16 << 10;  // the largest table of levels that a block takes to its own memory
  using Place = RowArrays<1>::Place;
  // The bits of four windows from the first bit of the first of them on: 16 + 3 * 16 of them, less than a byte late.
  struct Raw {
    Bytes<16> bits;
  };
  RowArrays<1> arrays;
  int dim, window;
  const float* levels;
  const uint32_t* ends;  // where the window of each value ends
  const float* affine;   // scale and offset of each value

  explicit Tcq(const Table& t)
      : arrays(t, {"codes"}), dim(int(t.embedding_dim)), window(int(t.params.integer("window", 0))) {
    if (window < 1 || window > 16) throw std::invalid_argument("window of tcq must be between 1 and 16");
    levels = shared_items<float>(t, "table", int64_t(1) << window);
    affine = shared_items<float>(t, "affine", 2 * int64_t(dim));
    ends = shared_items<uint32_t>(t, "ends", dim);
    const uint8_t* bits = host_items<uint8_t>(t, "bits", dim);
    const uint32_t* known = host_items<uint32_t>(t, "ends", dim);
    int64_t end = 0;
    for (int j = 0; j < dim; ++j) {
      if (bits[j] > window) throw std::invalid_argument("a value of tcq has more bits than the window");
      end += bits[j];
      if (known[j] != end) throw std::invalid_argument("the windows of tcq end elsewhere than its bits");
    }
    if (end > 8 * arrays.row_bytes[0]) throw std::invalid_argument("the values of tcq have more bits than the row");
  }

  int64_t table_bytes() const { return copies() ? int64_t(4) << window : 0; }
  EMBSTORE_HD void fill(uint8_t* to, int thread, int threads) const {
    if (!copies()) return;
    for (int c = thread; c < 1 << window; c += threads) reinterpret_cast<float*>(to)[c] = read(levels + c);
  }
  EMBSTORE_HD void bind(const uint8_t* table) {
    if (copies()) levels = reinterpret_cast<const float*>(table);
  }

  EMBSTORE_HD Place place(int64_t id) const { return arrays.place(id); }
  template <int V>
  EMBSTORE_HD Raw fetch(const Place& at, int j) const {
    return {read_bytes<16>(at[0] + first(j) / 8, 1)};
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw& raw, const Place&, int j, float (&v)[V]) const {
    static_assert(V == 4);
    const int base = first(j) / 8 * 8;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (j + k >= dim) {
        v[k] = 0.0f;
        continue;
      }
      // Bits before the row's first are 0.
      const int end = int(read(ends + j + k)), late = end < window ? window - end : 0;
      const uint32_t state = (bits_from(raw.bits, first(j + k) - base) << late) & ((1u << window) - 1);
      const float level = copies() ? levels[state] : read(levels + state);
      v[k] = level * read(affine + 2 * (j + k)) + read(affine + 2 * (j + k) + 1);
    }
  }

 private:
  EMBSTORE_HD bool copies() const { return int64_t(4) << window <= kCopied; }
  // The first bit of the window of value j that lies in the row.
  EMBSTORE_HD int first(int j) const {
    const int end = int(read(ends + j));
    return end < window ? 0 : end - window;
  }
  // 32 bits from bit `at` on, below 96; words are picked, not indexed, to stay in registers.
  EMBSTORE_HD static uint32_t bits_from(const Bytes<16>& raw, int at) {
    const uint32_t low = at < 32 ? raw.words[0] : at < 64 ? raw.words[1] : raw.words[2];
    const uint32_t high = at < 32 ? raw.words[1] : at < 64 ? raw.words[2] : raw.words[3];
    return shift_together(low, high, at % 32);
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(tcq, row_kernel<Tcq>);
}  // namespace embstore::cuda
