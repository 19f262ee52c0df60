// A row is copied from the blocks its places name. A place beyond the stored blocks decodes to zeros.
#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/methods/_values.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

struct Dedup : NoTable {
  static constexpr int kColumns = 4, kInFlight = 2;
  struct Place {
    const uint8_t* places;
    int64_t row;     // of a block
    uint32_t first;  // the place of the first block, asked for before the others
  };
  int dim, block_dims, align, place_bytes;
  int64_t block_rows, unique;
  Stored kind;
  Rows places;  // by row, or for block_rows of them at a time
  const uint8_t* blocks;

  explicit Dedup(const Table& t)
      : dim(int(t.embedding_dim)),
        block_dims(int(t.params.integer("block_dims", t.embedding_dim))),
        place_bytes(t.params.is("place_dtype", "uint8")    ? 1
                    : t.params.is("place_dtype", "uint16") ? 2
                                                           : 4),
        block_rows(t.params.integer("block_rows", 1)),
        kind(t.params.is("values", "float16") ? Stored::kHalf : Stored::kFloat),
        blocks(shared_items<uint8_t>(t, "blocks", -1)) {
    if (block_dims < 1 || block_rows < 1) throw std::invalid_argument("a block has a value at least");
    const int64_t row_bytes = int64_t(block_dims) * stored_bytes(kind);
    unique = t.shared.at("blocks").nbytes / (block_rows * row_bytes);
    align = alignment(blocks, row_bytes);
    if (block_rows == 1) {
      places = t.rows.at("place");
    } else {
      places.row_bytes = place_bytes * int64_t((dim + block_dims - 1) / block_dims);
      places.data = shared_items<uint8_t>(t, "place", -1);
      if (t.shared.at("place").nbytes < (t.num_embeddings + block_rows - 1) / block_rows * places.row_bytes)
        throw std::invalid_argument("each run of rows needs places");
    }
  }

  EMBSTORE_HD Place place(int64_t id) const {
    const int64_t run = quotient(id, block_rows);
    const uint8_t* at = places.data + run * places.row_bytes;
    return {at, id - run * block_rows, which(at)};
  }
  template <int V>
  EMBSTORE_HD FourStored fetch(const Place& at, int j) const {
    static_assert(V == 4);
    const int c = j / block_dims, into = j - c * block_dims;
    if (into + V <= block_dims || c == (dim - 1) / block_dims) {
      const uint8_t* from = block(at, c);
      if (from == nullptr) return {};
      // A block's last values may be followed by those of another, of columns that the row does not have.
      return read_four(from + int64_t(into) * stored_bytes(kind), kind,
                       block_dims % V == 0 ? align : stored_bytes(kind));
    }
    FourStored four = {};
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const int column = j + k, of = column / block_dims;
      const uint8_t* from = column < dim ? block(at, of) : nullptr;
      if (from == nullptr) continue;
      from += int64_t(column - of * block_dims) * stored_bytes(kind);
      if (kind == Stored::kFloat)
        four.words[k] = read<uint32_t>(from);
      else
        four.words[k / 2] |= uint32_t(read<uint16_t>(from)) << (k % 2 * 16);
    }
    return four;
  }
  template <int V>
  EMBSTORE_HD void decode(const FourStored& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = raw.value(k, kind);
  }

 private:
  EMBSTORE_HD uint32_t which(const uint8_t* at) const {
    return place_bytes == 4 ? read<uint32_t>(at) : place_bytes == 2 ? read<uint16_t>(at) : read<uint8_t>(at);
  }
  // The row's values of column block c; null where there is no such block.
  EMBSTORE_HD const uint8_t* block(const Place& at, int c) const {
    const int64_t found = c == 0 ? at.first : which(at.places + place_bytes * c);
    return found < unique ? blocks + (found * block_rows + at.row) * block_dims * stored_bytes(kind) : nullptr;
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(dedup, row_kernel<Dedup>);
}  // namespace embstore::cuda
