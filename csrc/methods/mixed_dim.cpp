// mixed_dim: the row's group says where its few values lie and with which projection they are multiplied.
#include <array>

#include "methods/_groups.h"
#include "methods/_stored.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <class T>
struct MixedDimDecode {
  using Item = typename T::Item;
  struct Block {
    const Item* values = nullptr;
    const float* projection = nullptr;  // null for full rows
    int64_t width = 0;
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
      b.values = items<Item>(t, "values_" + std::to_string(g), groups.rows(g) * b.width);
      if (b.width < dim) {
        b.projection = projection;
        projection += b.width * dim;
      }
      bytes += groups.rows(g) * b.width * int64_t(sizeof(Item));
    }
    line_bytes = bytes / (t.num_embeddings < 1 ? 1 : t.num_embeddings) + 64;
  }
  void prefetch(int64_t id) const { groups.prefetch(id); }
  void follow(int64_t id) const {
    const Groups::Place at = groups(id);
    if (at.group < 0) return;
    const Block& b = blocks[size_t(at.group)];
    const auto* first = reinterpret_cast<const uint8_t*>(b.values + at.index * b.width);
    for (int64_t line = 0; line < b.width * int64_t(sizeof(Item)); line += 64)
      ::embstore::EMBSTORE_ISA::prefetch(first + line);
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
    const Item* values = b.values + at.index * b.width;
    if (b.projection == nullptr) {
#if !defined(EMBSTORE_ISA_REF)
      for (; j + Width <= dim; j += Width) sink.many(j, T::many(values + j));
#endif
      for (; j < dim; ++j) sink.one(j, T::one(values[j]));
      return;
    }
#if !defined(EMBSTORE_ISA_REF)
    constexpr int kColumns = 4;
    for (; j + kColumns * Width <= dim; j += kColumns * Width) columns<kColumns>(values, b, j, sink);
    for (; j + Width <= dim; j += Width) columns<1>(values, b, j, sink);
#endif
    for (; j < dim; ++j) {
      float sum = T::one(values[0]) * b.projection[j];
      for (int64_t k = 1; k < b.width; ++k) sum += T::one(values[k]) * b.projection[k * dim + j];
      sink.one(j, sum);
    }
  }

 private:
#if !defined(EMBSTORE_ISA_REF)
  template <int C, class Sink>
  void columns(const Item* values, const Block& b, int64_t j, Sink& sink) const {
    Floats sums[C];
    const Floats first = set1(T::one(values[0]));
    for (int c = 0; c < C; ++c) sums[c] = mul(first, load(b.projection + j + c * Width));
    for (int64_t k = 1; k < b.width; ++k) {
      const Floats value = set1(T::one(values[k]));
      const float* line = b.projection + k * dim + j;
      for (int c = 0; c < C; ++c) sums[c] = add(sums[c], mul(value, load(line + c * Width)));
    }
    for (int c = 0; c < C; ++c) sink.many(j + c * Width, sums[c]);
  }
#endif
};

std::unique_ptr<Kernel> mixed_dim_kernel(const TableView& t) {
  if (t.params.is("values", "float32"))
    return std::make_unique<IndirectKernel<MixedDimDecode<StoredFloat>>>(MixedDimDecode<StoredFloat>(t));
  return std::make_unique<IndirectKernel<MixedDimDecode<StoredHalf>>>(MixedDimDecode<StoredHalf>(t));
}

}  // namespace
EMBSTORE_REGISTER(mixed_dim, mixed_dim_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
