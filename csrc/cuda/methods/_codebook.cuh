// dynamic8 and nf4: value = table[code] * scale of the block. Scales are float32, float16 or (nf4) log codes of 8 bits.
#pragma once
#include <stdexcept>

#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {

enum class ScaleKind { kFloat, kHalf, kLog };

inline ScaleKind scale_kind(const Params& p) {
  return p.is("scale_dtype", "float16") ? ScaleKind::kHalf
         : p.is("scale_dtype", "uint8") ? ScaleKind::kLog
                                        : ScaleKind::kFloat;
}

// Where codes, scales and values lie. All of 2^Bits values lie in a block's own memory: lanes that want different ones
// of 16 floats do not wait for each other.
template <int Bits>
struct CodebookArrays {
  static constexpr int kValues = 1 << Bits;
  RowArrays<2> arrays;
  int dim, block_size;
  ScaleKind kind;
  const float* values;
  const float* log_scales;  // 256 decoded scales; null unless kLog
  using Place = RowArrays<2>::Place;

  explicit CodebookArrays(const Table& t)
      : arrays(t, {"codes", "scale"}),
        dim(int(t.embedding_dim)),
        block_size(int(t.params.integer("block_size", t.embedding_dim))),
        kind(scale_kind(t.params)),
        values(shared_items<float>(t, "table", -1)),
        log_scales(kind == ScaleKind::kLog ? shared_items<float>(t, "scale_values", 256) : nullptr) {}

  int64_t table_bytes() const { return kValues * 4; }
  EMBSTORE_HD void fill(uint8_t* to, int thread, int threads) const {
    for (int c = thread; c < kValues; c += threads) reinterpret_cast<float*>(to)[c] = read(values + c);
  }
  EMBSTORE_HD void bind(const uint8_t* table) { values = reinterpret_cast<const float*>(table); }
  EMBSTORE_HD Place place(int64_t id) const { return arrays.place(id); }

  EMBSTORE_HD float scale(const uint8_t* row, int block) const {
    if (kind == ScaleKind::kFloat) return bits_float(read<uint32_t>(row + 4 * block));
    if (kind == ScaleKind::kHalf) return widen(read<uint16_t>(row + 2 * block));
    return read(log_scales + read<uint8_t>(row + block));
  }
};

// Rows whose blocks begin at multiples of 16 columns, or that are one block.
template <int Bits>
struct CodebookDecode : CodebookArrays<Bits> {
  static constexpr int kColumns = 16;
  using Base = CodebookArrays<Bits>;
  using Place = typename Base::Place;
  template <int V>
  struct Raw {
    Bytes<V * Bits / 8> codes;
    float scale;
  };

  explicit CodebookDecode(const Table& t) : Base(t) {}

  template <int V>
  EMBSTORE_HD Raw<V> fetch(const Place& at, int j) const {
    return {read_bytes<V * Bits / 8>(at[0] + j * Bits / 8, this->arrays.align[0]),
            this->scale(at[1], this->block_size >= this->dim ? 0 : j / this->block_size)};
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw<V>& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = this->values[raw.codes.template code<Bits>(k)] * raw.scale;
  }
};

// Any blocks.
template <int Bits>
struct CodebookColumns : CodebookArrays<Bits>, ByColumn<CodebookColumns<Bits>> {
  using Base = CodebookArrays<Bits>;
  using Base::bind;
  using Base::fill;
  using Base::table_bytes;

  explicit CodebookColumns(const Table& t) : Base(t) {}

  EMBSTORE_HD float one(const typename Base::Place& at, int j) const {
    const uint32_t c = (read<uint8_t>(at[0] + j * Bits / 8) >> (j * Bits % 8)) & ((1u << Bits) - 1);
    return this->values[c] * this->scale(at[1], j / this->block_size);
  }
};

template <int Bits>
std::unique_ptr<Kernel> codebook_kernel(const Table& t) {
  const int64_t block_size = t.params.integer("block_size", t.embedding_dim);
  return block_size < t.embedding_dim && block_size % 16 != 0 ? row_kernel<CodebookColumns<Bits>>(t)
                                                              : row_kernel<CodebookDecode<Bits>>(t);
}

}  // namespace embstore::cuda
