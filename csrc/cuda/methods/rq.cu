// Residual quantization: a row is the sum of a codeword of each codebook, added in their order. `tables` has the
// codebooks as float32.
#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

// Byte: codes of 8 bits, of which the first 16 are loaded at a time, for several rows at once.
template <bool Byte>
struct Rq : NoTable {
  static constexpr int kColumns = 4, kInFlight = Byte ? 3 : 8;
  using Place = RowArrays<1>::Place;
  struct Raw {
    Bytes<Byte ? 16 : 4> codes;
  };
  RowArrays<1> arrays;
  int dim, m, bits, align;
  int64_t count;
  const float* tables;

  explicit Rq(const Table& t)
      : arrays(t, {"codes"}),
        dim(int(t.embedding_dim)),
        m(int(t.params.integer("m", 1))),
        bits(int(t.params.integer("bits", 8))),
        count(int64_t(1) << bits),
        tables(shared_items<float>(t, "tables", m * count * dim)) {
    align = alignment(tables, 4 * int64_t(dim));
  }

  EMBSTORE_HD Place place(int64_t id) const { return arrays.place(id); }
  template <int V>
  EMBSTORE_HD Raw fetch(const Place& at, int) const {
    if constexpr (Byte)
      return {read_bytes<16>(at[0], arrays.align[0])};
    else
      return {};
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw& raw, const Place& at, int j, float (&v)[V]) const {
    static_assert(V == 4);
    if constexpr (Byte) {
#pragma unroll
      for (int s = 0; s < 16; ++s)
        if (s < m) add(s, raw.codes.template code<8>(s), j, v);
      for (int s = 16; s < m; ++s) add(s, read<uint8_t>(at[0] + s), j, v);
    } else {
#pragma unroll 4
      for (int s = 0; s < m; ++s) add(s, packed_code(at[0], s, bits), j, v);
    }
  }

 private:
  EMBSTORE_HD void add(int s, uint32_t code, int j, float (&v)[4]) const {
    const float* word = tables + (s * count + code) * dim + j;
    const Bytes<16> values = read_bytes<16>(reinterpret_cast<const uint8_t*>(word), align);
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = s == 0 ? bits_float(values.words[k]) : v[k] + bits_float(values.words[k]);
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  const int64_t m = t.params.integer("m", 1), bits = t.params.integer("bits", 8);
  if (m < 1 || bits < 1 || bits > 16 || t.rows.at("codes").row_bytes != (m * bits + 7) / 8)
    throw std::invalid_argument("m, bits and the codes do not belong together");
  return bits == 8 ? row_kernel<Rq<true>>(t) : row_kernel<Rq<false>>(t);
}

}  // namespace
EMBSTORE_CUDA_REGISTER(rq, kernel);
}  // namespace embstore::cuda
