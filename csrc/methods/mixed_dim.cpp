// mixed_dim: the row's group says where its few values lie and with which projection they are multiplied.
#include <array>

#include "methods/_groups.h"
#include "methods/_table_rows.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <class Row>
struct MixedDimDecode {
  struct Block {
    const uint8_t* values = nullptr;
    const float* projection = nullptr;  // null for full rows
    int64_t width = 0, row_bytes = 0;
  };
  Groups groups;
  std::array<Block, size_t(kMaxGroups)> blocks{};
  int64_t dim, line_bytes;

  explicit MixedDimDecode(const TableView& t) : groups(t, t.params.integer("blocks", 1)), dim(t.embedding_dim) {
    const int64_t count = t.params.integer("blocks", 1);
    const int32_t* dims = items<int32_t>(t, "dims", count);
    int64_t rows = 0, bytes = 0;
    for (int64_t g = 0; g < count; ++g) {
      if (dims[g] < 1 || dims[g] > dim) throw std::invalid_argument("dims must be within the row; restore the table");
      if (dims[g] < dim) rows += dims[g];
    }
    const float* projection = items<float>(t, "projections", rows * dim);
    for (int64_t g = 0; g < count; ++g) {
      Block& b = blocks[size_t(g)];
      b.width = dims[g];
      b.row_bytes = Row::bytes(b.width);
      b.values = items<uint8_t>(t, "values_" + std::to_string(g), groups.rows(g) * b.row_bytes);
      if (b.width < dim) {
        b.projection = projection;
        projection += b.width * dim;
      }
      bytes += groups.rows(g) * b.row_bytes;
    }
    line_bytes = bytes / (t.num_embeddings < 1 ? 1 : t.num_embeddings) + 64;
  }
  void prefetch(int64_t id) const { groups.prefetch(id); }
  void follow(int64_t id) const {
    const Groups::Place at = groups(id);
    if (at.group < 0) return;
    const Block& b = blocks[size_t(at.group)];
    const uint8_t* first = b.values + at.index * b.row_bytes;
    for (int64_t line = 0; line < b.row_bytes; line += 64) ::embstore::EMBSTORE_ISA::prefetch(first + line);
  }
  template <class Sink>
  void decode(int64_t id, Sink& sink) const {
    const Groups::Place at = groups(id);
    int64_t j = 0;
    if (at.group < 0) {  // a damaged table
      for (; j < dim; ++j) sink.one(j, 0.0f);
      return;
    }
    const Block& b = blocks[size_t(at.group)];
    const uint8_t* stored = b.values + at.index * b.row_bytes;
    if (b.projection == nullptr) {
      const Row row(stored);
#if !defined(EMBSTORE_ISA_REF)
      j = over_vectors<Sink, Row::kStep>(j, dim, [&](int64_t from) { sink.many(from, row.vector(row.codes, from)); });
#endif
      for (; j < dim; ++j) sink.one(j, row.one(j));
      return;
    }
    const auto values = Row(stored).scalars();
#if !defined(EMBSTORE_ISA_REF)
    constexpr int kColumns = 4;
    for (; j + kColumns * Width <= dim; j += kColumns * Width) columns<kColumns>(values, b, j, sink);
    for (; j + Width <= dim; j += Width) columns<1>(values, b, j, sink);
#endif
    for (; j < dim; ++j) {
      float sum = values.one(0) * b.projection[j];
      for (int64_t k = 1; k < b.width; ++k) sum += values.one(k) * b.projection[k * dim + j];
      sink.one(j, sum);
    }
  }

 private:
#if !defined(EMBSTORE_ISA_REF)
  template <int C, class Values, class Sink>
  void columns(const Values& values, const Block& b, int64_t j, Sink& sink) const {
    Floats sums[C];
    const Floats first = set1(values.one(0));
    for (int c = 0; c < C; ++c) sums[c] = mul(first, load(b.projection + j + c * Width));
    for (int64_t k = 1; k < b.width; ++k) {
      const Floats value = set1(values.one(k));
      const float* line = b.projection + k * dim + j;
      for (int c = 0; c < C; ++c) sums[c] = add(sums[c], mul(value, load(line + c * Width)));
    }
    for (int c = 0; c < C; ++c) sink.many(j + c * Width, sums[c]);
  }
#endif
};

template <class Row>
std::unique_ptr<Kernel> mixed_dim_of(const TableView& t) {
  return std::make_unique<IndirectKernel<MixedDimDecode<Row>>>(MixedDimDecode<Row>(t));
}

std::unique_ptr<Kernel> mixed_dim_kernel(const TableView& t) {
  if (t.params.is("values", "float16")) return mixed_dim_of<HalfRow>(t);
  return by_row_dtype(t, "values", [&](auto row) { return mixed_dim_of<decltype(row)>(t); });
}

}  // namespace
EMBSTORE_REGISTER(mixed_dim, mixed_dim_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
