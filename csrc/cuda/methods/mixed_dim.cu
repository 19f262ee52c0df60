// The row's group says where its few values lie and with which projection they are multiplied.
#include "cuda/methods/_groups.cuh"
#include "cuda/methods/_table_rows.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

struct Block {
  GroupSize size;
  const uint8_t* values;
  const float* projection;  // null for full rows
  int64_t width;
};

template <class Row>
struct MixedDim {
  static constexpr int kColumns = 4, kInFlight = 2;
  struct Place {
    const uint8_t* values;  // null in a damaged table
    const float* projection;
    int width;
  };
  RowGroups groups;
  int dim, align, full_align;  // of lines of projections; of rows that have all values
  Block own[kMaxGroups] = {};
  const uint8_t* blocks = nullptr;  // those, in a block's own memory

  explicit MixedDim(const Table& t) : groups(t, t.params.integer("blocks", 1)), dim(int(t.embedding_dim)) {
    const int32_t* dims = host_items<int32_t>(t, "dims", groups.count);
    int64_t rows = 0;
    for (int g = 0; g < groups.count; ++g) {
      if (dims[g] < 1 || dims[g] > dim) throw std::invalid_argument("dims must be within the row; restore the table");
      if (dims[g] < dim) rows += dims[g];
    }
    const float* projection = shared_items<float>(t, "projections", rows * dim);
    align = alignment(projection, 4 * int64_t(dim));
    full_align = alignment(nullptr, Row::bytes(dim));  // arrays begin at multiples of more
    for (int g = 0; g < groups.count; ++g) {
      const int64_t bytes = groups.sizes[g].rows * Row::bytes(dims[g]);
      const auto* values = shared_items<uint8_t>(t, "values_" + std::to_string(g), bytes);
      own[g] = {groups.sizes[g], values, dims[g] < dim ? projection : nullptr, dims[g]};
      if (dims[g] < dim) projection += int64_t(dims[g]) * dim;
    }
  }

  int64_t table_bytes() const { return int64_t(sizeof(Block)) * groups.count; }
  EMBSTORE_HD void fill(uint8_t* to, int thread, int threads) const {
    for (int g = thread; g < groups.count; g += threads) reinterpret_cast<Block*>(to)[g] = own[g];
  }
  EMBSTORE_HD void bind(const uint8_t* table) { blocks = table; }

  EMBSTORE_HD Place place(int64_t id) const {
    const RowGroups::Place at = groups.find(id, blocks, sizeof(Block));
    if (at.group < 0) return {nullptr, nullptr, 0};
    const Block& b = reinterpret_cast<const Block*>(blocks)[at.group];
    return {b.values + at.index * Row::bytes(b.width), b.projection, int(b.width)};
  }
  // What is read of a projected row depends on no column: it is left to decode.
  template <int V>
  EMBSTORE_HD typename Row::template Raw<V> fetch(const Place& at, int j) const {
    static_assert(V == 4);
    if (at.values == nullptr || at.projection != nullptr) return {};
    return Row::template fetch<V>(at.values, j, full_align);
  }
  template <int V>
  EMBSTORE_HD void decode(const typename Row::template Raw<V>& raw, const Place& at, int j, float (&v)[V]) const {
    Row::template values<V>(raw, v);
    if (at.projection == nullptr) return;
    const auto* line = reinterpret_cast<const uint8_t*>(at.projection + j);
#pragma unroll 4
    for (int i = 0; i < at.width; ++i, line += 4 * int64_t(dim)) {
      const float value = Row::one(at.values, i);
      const Bytes<16> weights = read_bytes<16>(line, align);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const float product = value * bits_float(weights.words[k]);
        v[k] = i == 0 ? product : v[k] + product;
      }
    }
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  if (t.params.is("values", "float16")) return row_kernel<MixedDim<HalfRow>>(t);
  return by_row_dtype(t, "values", [&](auto row) { return row_kernel<MixedDim<decltype(row)>>(t); });
}

}  // namespace
EMBSTORE_CUDA_REGISTER(mixed_dim, kernel);
}  // namespace embstore::cuda
