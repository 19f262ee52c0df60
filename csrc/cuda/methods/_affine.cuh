// int16, int8, int4, int2: value = code * scale + offset (affine) or code * scale (symmetric), two roundings each.
#pragma once
#include <stdexcept>

#include "cuda/search/coded.cuh"

namespace embstore::cuda {

// Where codes and steps of a row lie, and how a step reads.
class AffineArrays {
 public:
  RowArrays<2> arrays;
  int dim, block_size;
  bool symmetric, half;
  using Place = RowArrays<2>::Place;

  explicit AffineArrays(const Table& t)
      : arrays(with_steps(t)),
        dim(int(t.embedding_dim)),
        block_size(int(t.params.integer("block_size", t.embedding_dim))),
        symmetric(is_symmetric(t)),
        half(t.params.is("scale_dtype", "float16") && arrays.row_bytes[1] != 0) {}

  EMBSTORE_HD Place place(int64_t id) const { return arrays.place(id); }

  struct Step {
    float scale, offset;
  };
  template <bool Symmetric>
  EMBSTORE_HD Step step(const uint8_t* row, int block) const {
    // Adding -0 changes no value, so symmetric codes take it for an offset.
    if (half) {
      if (Symmetric) return {widen(read<uint16_t>(row + 2 * block)), -0.0f};
      const uint32_t both = read<uint32_t>(row + 4 * block);
      return {widen(uint16_t(both)), widen(uint16_t(both >> 16))};
    }
    if (Symmetric) return {bits_float(read<uint32_t>(row + 4 * block)), -0.0f};
    return {bits_float(read<uint32_t>(row + 8 * block)), bits_float(read<uint32_t>(row + 8 * block + 4))};
  }

 private:
  static bool is_symmetric(const Table& t) { return t.params.integer("symmetric", 0) != 0; }

  // One step for the whole table is read as if by row: every row's lies in the same place.
  static RowArrays<2> with_steps(const Table& t) {
    const char* name = is_symmetric(t) ? "scale" : "affine";
    const auto one = t.shared.find(name);
    if (one == t.shared.end()) return {t, {"codes", name}};
    if (one->second.nbytes != (is_symmetric(t) ? 4 : 8))
      throw std::invalid_argument("the step of a table is a float or two");
    RowArrays<2> arrays(t, {"codes", "codes"});
    arrays.set(1, one->second.data, 0);
    return arrays;
  }
};

// The middle of signed codes of 4 and 2 bits is stored as 0.
template <int Bits, bool Symmetric>
EMBSTORE_HD float affine_code(uint32_t c) {
  if (!Symmetric) return float(c);
  if (Bits == 16) return float(int16_t(c));
  if (Bits == 8) return float(int8_t(c));
  return float(int(c) - (1 << (Bits - 1)));
}

// Rows whose blocks begin at multiples of 16 columns, or that are one block.
template <int Bits, bool Symmetric>
struct AffineDecode : AffineArrays, NoTable {
  static constexpr int kColumns = Bits == 16 ? 8 : 16;
  // The product of code and scale fits a float32: a half float has 11 significant bits.
  static constexpr bool kExact = Bits + 11 <= 24;
  template <int V>
  struct Raw {
    Bytes<V * Bits / 8> codes;
    Step step;
  };

  explicit AffineDecode(const Table& t) : AffineArrays(t) {}

  template <int V>
  EMBSTORE_HD Raw<V> fetch(const Place& at, int j) const {
    return {read_bytes<V * Bits / 8>(at[0] + j * Bits / 8, arrays.align[0]),
            step<Symmetric>(at[1], block_size >= dim ? 0 : j / block_size)};
  }

  template <int V>
  EMBSTORE_HD void decode(const Raw<V>& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const float c = affine_code<Bits, Symmetric>(raw.codes.template code<Bits>(k));
      v[k] = kExact && half ? mul_add_exact(c, raw.step.scale, raw.step.offset) : c * raw.step.scale + raw.step.offset;
    }
  }
};

// Scores in integers: signed codes are taken as unsigned ones whose offset is -middle * scale.
template <int Bits, bool Symmetric>
struct AffineCodes : AffineArrays {
  int block;

  explicit AffineCodes(const Table& t) : AffineArrays(t), block(smaller(block_size, dim)) {}

  EMBSTORE_HD void codes(const Place& at, int j, uint32_t (&w)[4]) const {
    codes_of<Bits>(at[0], j, arrays.align[0], w);
    if constexpr (Bits == 8 && Symmetric) {
#pragma unroll
      for (int k = 0; k < 4; ++k) w[k] ^= 0x80808080u;
    }
  }
  EMBSTORE_HD Step step(const Place& at, int b) const {
    const Step given = AffineArrays::step<Symmetric>(at[1], b);
    return {given.scale, Symmetric ? -float(1 << (Bits - 1)) * given.scale : given.offset};
  }
  EMBSTORE_HD static float add(float total, const Step& step, int sum, float query_sum) {
    return total + (step.scale * float(sum) + step.offset * query_sum);
  }
  EMBSTORE_HD float finish(float total, const Place&, const QueryTerms& terms) const { return total * terms.factor; }
};

// Any blocks.
template <int Bits>
struct AffineColumns : AffineArrays, ByColumn<AffineColumns<Bits>> {
  explicit AffineColumns(const Table& t) : AffineArrays(t) {}

  EMBSTORE_HD float one(const Place& at, int j) const {
    const int block = j / block_size;
    const uint32_t c = Bits == 16 ? read<uint16_t>(at[0] + 2 * j)
                                  : (read<uint8_t>(at[0] + j * Bits / 8) >> (j * Bits % 8)) & ((1u << Bits) - 1);
    const Step s = symmetric ? step<true>(at[1], block) : step<false>(at[1], block);
    return (symmetric ? affine_code<Bits, true>(c) : affine_code<Bits, false>(c)) * s.scale + s.offset;
  }
};

// Scans of codes are compiled for the widths that are searched most. Sums of longer blocks could outgrow 32 bits.
template <int Bits, bool Symmetric>
std::unique_ptr<Kernel> affine_rows(const Table& t) {
  using F = AffineDecode<Bits, Symmetric>;
  if constexpr (Bits == 8 || Bits == 4) {
    const AffineCodes<Bits, Symmetric> codes(t);
    if (codes.block > 1 << 16) return scan_kernel<F>(t);
    return std::make_unique<CodedKernel<ScanKernel<F>, AffineCodes<Bits, Symmetric>>>(F(t), codes, t.num_embeddings);
  } else {
    return row_kernel<F>(t);
  }
}

template <int Bits>
std::unique_ptr<Kernel> affine_kernel(const Table& t) {
  const int64_t block_size = t.params.integer("block_size", t.embedding_dim);
  if (block_size < t.embedding_dim && block_size % 16 != 0) return row_kernel<AffineColumns<Bits>>(t);
  return t.params.integer("symmetric", 0) != 0 ? affine_rows<Bits, true>(t) : affine_rows<Bits, false>(t);
}

}  // namespace embstore::cuda
