// Product quantization: a row is the centroids its codes name, one after the other. `tables` has the centroids of each
// slice in turn.
#include "cuda/methods/_shared.cuh"
#include "cuda/search/tables.cuh"

namespace embstore::cuda {
namespace {

struct PqArrays {
  RowArrays<1> arrays;
  int dim, m, bits, count;
  const float* tables;
  using Place = RowArrays<1>::Place;

  explicit PqArrays(const Table& t)
      : arrays(t, {"codes"}),
        dim(int(t.embedding_dim)),
        m(int(t.params.integer("m", 1))),
        bits(int(t.params.integer("bits", 8))),
        count(1 << bits),
        tables(shared_items<float>(t, "tables", int64_t(count) * dim)) {}

  EMBSTORE_HD Place place(int64_t id) const { return arrays.place(id); }
};

// Slices of 2 or 4 values.
template <int Slice>
struct PqDecode : PqArrays, NoTable {
  static constexpr int kColumns = 16;
  template <int V>
  struct Raw {
    uint32_t codes[V / Slice];
  };

  explicit PqDecode(const Table& t) : PqArrays(t) {}

  template <int V>
  EMBSTORE_HD Raw<V> fetch(const Place& at, int j) const {
    constexpr int kCodes = V / Slice;
    Raw<V> raw;
    if (bits == 8) {
      const Bytes<kCodes> codes = read_bytes<kCodes>(at[0] + j / Slice, arrays.align[0]);
#pragma unroll
      for (int c = 0; c < kCodes; ++c) raw.codes[c] = codes.template code<8>(c);
    } else {
#pragma unroll
      for (int c = 0; c < kCodes; ++c) raw.codes[c] = packed_code(at[0], smaller(j / Slice + c, m - 1), bits);
    }
    return raw;
  }

  template <int V>
  EMBSTORE_HD void decode(const Raw<V>& raw, const Place&, int j, float (&v)[V]) const {
#pragma unroll
    for (int c = 0; c < V / Slice; ++c) {
      const int s = smaller(j / Slice + c, m - 1);
      const float* from = tables + (int64_t(s) * count + raw.codes[c]) * Slice;
      const Bytes<4 * Slice> values = read_bytes<4 * Slice>(reinterpret_cast<const uint8_t*>(from), 4 * Slice);
#pragma unroll
      for (int k = 0; k < Slice; ++k) v[c * Slice + k] = bits_float(values.words[k]);
    }
  }
};

// Slice s has the columns from floor(s * dim / m) on.
struct PqColumns : PqArrays, ByColumn<PqColumns> {
  explicit PqColumns(const Table& t) : PqArrays(t) {}

  EMBSTORE_HD float one(const Place& at, int j) const {
    const int64_t s = (int64_t(j + 1) * m - 1) / dim, first = s * dim / m, size = (s + 1) * dim / m - first;
    return read(tables + first * count + packed_code(at[0], int(s), bits) * size + (j - first));
  }
};

// Scores by tables.
struct PqTables : PqArrays {
  explicit PqTables(const Table& t) : PqArrays(t) {}

  EMBSTORE_HD void four(const Place& at, int s, uint32_t (&c)[4]) const {
    if (bits == 8) {
      const uint32_t word = read_bytes<4>(at[0] + s, arrays.align[0]).words[0];
#pragma unroll
      for (int k = 0; k < 4; ++k) c[k] = word >> 8 * k & 255;
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) c[k] = packed_code(at[0], smaller(s + k, m - 1), bits);
    }
  }
  EMBSTORE_HD float centroid(int s, int64_t code, int j) const {
    const int64_t from = int64_t(s) * dim / m, size = int64_t(s + 1) * dim / m - from;
    return read(tables + from * count + code * size + (j - from));
  }
};

// Tables of long slices are fewer loads than decoding takes products; the integers are those of the host, which sums
// bytes where codes have 4 bits.
std::unique_ptr<Kernel> by_tables(const Table& t) {
  const PqTables codes(t);
  const int top = codes.bits == 4 ? smaller(255, 65535 / codes.m) : 65535 / codes.m;
  return std::make_unique<TableKernel<RowKernel<PqColumns>, PqTables>>(PqColumns(t), codes, top, t.num_embeddings);
}

std::unique_ptr<Kernel> kernel(const Table& t) {
  const int64_t m = t.params.integer("m", 1), bits = t.params.integer("bits", 8);
  if (m < 1 || m > t.embedding_dim || bits < 1 || bits > 16 || t.rows.at("codes").row_bytes != (m * bits + 7) / 8)
    throw std::invalid_argument("m, bits and the codes do not belong together");
  if (t.embedding_dim == 2 * m) return row_kernel<PqDecode<2>>(t);
  if (t.embedding_dim == 4 * m) return scan_kernel<PqDecode<4>>(t);
  if (t.embedding_dim >= 8 * m && (m << bits) * kTogether * 2 <= kTableBytes) return by_tables(t);
  return row_kernel<PqColumns>(t);
}

}  // namespace
EMBSTORE_CUDA_REGISTER(pq, kernel);
}  // namespace embstore::cuda
