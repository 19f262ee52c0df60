#include "cuda/methods/_grid.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/search/coded.cuh"

namespace embstore::cuda {
namespace {

enum class RowScale { kNone, kHalf, kFloat };

// Codes and scales; levels lie in a block's own memory.
struct GridArrays {
  RowArrays<2> arrays;
  int dim, bits;
  RowScale kind;
  const float* levels;
  using Place = RowArrays<2>::Place;

  explicit GridArrays(const Table& t)
      : arrays(t, {"codes", scale_kind(t) == RowScale::kNone ? "codes" : "scale"}),
        dim(int(t.embedding_dim)),
        bits(int(t.params.integer("bits", 1))),
        kind(scale_kind(t)),
        levels(shared_items<float>(t, "table", -1)) {
    if (bits < 1 || bits > 8 || t.shared.at("table").nbytes < int64_t(4) << bits)
      throw std::invalid_argument("bits must be from 1 to 8, with a level for each code");
  }

  int64_t table_bytes() const { return int64_t(4) << bits; }
  EMBSTORE_HD void fill(uint8_t* to, int thread, int threads) const {
    for (int c = thread; c < 1 << bits; c += threads) reinterpret_cast<float*>(to)[c] = read(levels + c);
  }
  EMBSTORE_HD void bind(const uint8_t* table) { levels = reinterpret_cast<const float*>(table); }
  EMBSTORE_HD Place place(int64_t id) const { return arrays.place(id); }
  EMBSTORE_HD float scale(const Place& at) const {
    if (kind == RowScale::kNone) return 1.0f;
    return kind == RowScale::kHalf ? widen(read<uint16_t>(at[1])) : bits_float(read<uint32_t>(at[1]));
  }

 private:
  static RowScale scale_kind(const Table& t) {
    return t.params.is("scale_dtype", "float16")   ? RowScale::kHalf
           : t.params.is("scale_dtype", "float32") ? RowScale::kFloat
                                                   : RowScale::kNone;
  }
};

// Codes of a power of two of bits, up to 8.
template <int Bits>
struct PowerGrid : GridArrays {
  static constexpr int kColumns = 16;
  template <int V>
  struct Raw {
    Bytes<(V * Bits + 7) / 8> codes;
    float scale;
  };

  explicit PowerGrid(const Table& t) : GridArrays(t) {}

  template <int V>
  EMBSTORE_HD Raw<V> fetch(const Place& at, int j) const {
    Raw<V> raw{read_bytes<(V * Bits + 7) / 8>(at[0] + j * Bits / 8, arrays.align[0]), scale(at)};
    if constexpr (V * Bits < 8) raw.codes.words[0] >>= j * Bits % 8;
    return raw;
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw<V>& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = levels[raw.codes.template code<Bits>(k)] * raw.scale;
  }
};

// Codes of 3, 5, 6 or 7 bits: 4 of them, from any bit on.
struct OddGrid : GridArrays {
  static constexpr int kColumns = 4, kInFlight = 3;
  struct Raw {
    Bytes<8> codes;
    float scale;
  };

  explicit OddGrid(const Table& t) : GridArrays(t) {}

  template <int V>
  EMBSTORE_HD Raw fetch(const Place& at, int j) const {
    return {read_bytes<8>(at[0] + j * bits / 8, 1), scale(at)};
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw& raw, const Place&, int j, float (&v)[V]) const {
    static_assert(V == 4);
    const int first = j * bits % 8;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const uint32_t word = shift_together(raw.codes.words[0], raw.codes.words[1], first + k * bits);
      v[k] = levels[word & ((1u << bits) - 1)] * raw.scale;
    }
  }
};

// Scores in integers, of codes that stand for (code - middle) * unit * scale of the row: not of those of turboquant,
// which Python asks no such scores of. Bits: 0 for any number.
template <int Bits>
struct GridCodes : GridArrays {
  static constexpr int block = 1024;  // the columns that the host adds up at a time
  struct Step {};

  explicit GridCodes(const Table& t) : GridArrays(t) {}

  EMBSTORE_HD void codes(const Place& at, int j, uint32_t (&w)[4]) const {
    if constexpr (Bits != 0) {
      codes_of<Bits>(at[0], j, arrays.align[0], w);
    } else {
      const uint32_t mask = (1u << bits) - 1;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int bit = (j + 4 * k) * bits;
        const Bytes<8> raw = read_bytes<8>(at[0] + bit / 8, 1);
        const uint32_t word = shift_together(raw.words[0], raw.words[1], bit % 8);
        w[k] = (word & mask) | (word >> bits & mask) << 8 | (word >> 2 * bits & mask) << 16 |
               (word >> 3 * bits & mask) << 24;
      }
    }
  }
  EMBSTORE_HD Step step(const Place&, int) const { return {}; }
  EMBSTORE_HD static float add(float total, const Step&, int sum, float) { return total + float(sum); }
  EMBSTORE_HD float finish(float total, const Place& at, const QueryTerms& terms) const {
    return (total + terms.shift) * terms.factor * scale(at);
  }
};

template <class F, int Bits>
std::unique_ptr<Kernel> coded_rows(const Table& t) {
  return std::make_unique<CodedKernel<RowKernel<F>, GridCodes<Bits>>>(F(t), GridCodes<Bits>(t), t.num_embeddings);
}

}  // namespace

std::unique_ptr<Kernel> grid_kernel(const Table& t) {
  switch (t.params.integer("bits", 1)) {
    case 1:
      return coded_rows<PowerGrid<1>, 1>(t);
    case 2:
      return coded_rows<PowerGrid<2>, 2>(t);
    case 4:
      return coded_rows<PowerGrid<4>, 4>(t);
    case 8:
      return coded_rows<PowerGrid<8>, 8>(t);
    default:
      return coded_rows<OddGrid, 0>(t);
  }
}

}  // namespace embstore::cuda
