// A code for each part of the row, in more bits for hot rows than for cold ones, from the same codebooks.
#include "cuda/methods/_groups.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

struct Codes {
  GroupSize size;
  const uint8_t* data;
  int64_t row_bytes, bits;
};

struct Mgqe {
  static constexpr int kColumns = 4, kInFlight = 2;
  struct Place {
    const uint8_t* row;  // null in a damaged table
    int bits;
  };
  RowGroups groups;
  Codes own[2];
  const uint8_t* known = nullptr;  // those, in a block's own memory
  const float* codebooks;
  int dim, parts, centroids, width, align;

  explicit Mgqe(const Table& t)
      : groups(t, 2),
        dim(int(t.embedding_dim)),
        parts(int(t.params.integer("m", 1))),
        centroids(1 << t.params.integer("bits", 8)),
        width((dim + parts - 1) / parts) {
    const char* names[2] = {"hot_codes", "cold_codes"};
    const char* fields[2] = {"bits", "cold_bits"};
    for (int g = 0; g < 2; ++g) {
      const int64_t bits = t.params.integer(fields[g], 8), row_bytes = (parts * bits + 7) / 8;
      own[g] = {groups.sizes[g], shared_items<uint8_t>(t, names[g], groups.sizes[g].rows * row_bytes), row_bytes, bits};
    }
    codebooks = shared_items<float>(t, "codebooks", int64_t(parts) * centroids * width);
    align = alignment(codebooks, 4 * int64_t(width));
  }

  int64_t table_bytes() const { return sizeof own; }
  EMBSTORE_HD void fill(uint8_t* to, int thread, int) const {
    if (thread < 2) reinterpret_cast<Codes*>(to)[thread] = own[thread];
  }
  EMBSTORE_HD void bind(const uint8_t* table) { known = table; }

  EMBSTORE_HD Place place(int64_t id) const {
    const RowGroups::Place at = groups.find(id, known, sizeof(Codes));
    if (at.group < 0) return {nullptr, 0};
    const Codes& c = reinterpret_cast<const Codes*>(known)[at.group];
    return {c.data + at.index * c.row_bytes, int(c.bits)};
  }
  template <int V>
  EMBSTORE_HD Bytes<16> fetch(const Place& at, int j) const {
    static_assert(V == 4);
    Bytes<16> values = {};
    if (at.row == nullptr) return values;
    const int p = j / width, into = j - p * width;
    if (into + V <= width || p == parts - 1)
      return read_bytes<16>(reinterpret_cast<const uint8_t*>(centroid(at, p) + into), width % V == 0 ? align : 4);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const int q = (j + k) / width;
      if (j + k < dim) values.words[k] = read(reinterpret_cast<const uint32_t*>(centroid(at, q) + (j + k - q * width)));
    }
    return values;
  }
  template <int V>
  EMBSTORE_HD void decode(const Bytes<16>& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = bits_float(raw.words[k]);
  }

 private:
  EMBSTORE_HD const float* centroid(const Place& at, int p) const {
    return codebooks + (int64_t(p) * centroids + packed_code(at.row, p, at.bits)) * width;
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(mgqe, row_kernel<Mgqe>);
}  // namespace embstore::cuda
