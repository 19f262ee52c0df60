// Factors are rows of another method's, and rows are factors times a basis.
#include "cuda/methods/_shared.cuh"
#include "cuda/methods/_values.cuh"
#include "cuda/skeletons/row_decode.cuh"
#include "cuda/transforms/_linear.cuh"

namespace embstore::cuda {
namespace {

// Factors of a grouped table: a window of stored values within zeros, as wide as all bases together. A row whose
// window is not within what is stored, of a damaged table, is NaN.
struct GroupedFactors {
  static constexpr int kColumns = 4, kInFlight = 2;
  struct Place {
    const uint8_t* values;  // of the window; null for NaN
    int first, end;         // its columns
    float by;
  };
  int dim = 0, groups, start_bytes;
  int64_t count;
  Stored kind;
  const uint8_t *group, *start, *scale = nullptr, *values;
  const uint32_t* ranks;
  const int* ends = nullptr;  // where the columns of each group end, in a block's own memory

  explicit GroupedFactors(const Table& t)
      : start_bytes(int(t.rows.at("start").row_bytes)),
        kind(stored_kind(t.params, "factor", Stored::kFloat)),
        group(t.rows.at("group").data),
        start(t.rows.at("start").data),
        values(shared_items<uint8_t>(t, kind == Stored::kInt8 ? "codes" : "values", -1)),
        ranks(shared_items<uint32_t>(t, "ranks", -1)) {
    if (start_bytes != 4 && start_bytes != 8) throw std::invalid_argument("starts of factors have 4 or 8 bytes");
    if (kind == Stored::kInt8) scale = t.rows.at("scale").data;
    count = t.shared.at(kind == Stored::kInt8 ? "codes" : "values").nbytes / stored_bytes(kind);
    groups = int(t.shared.at("ranks").nbytes / 4);
    const auto* known = host_items<uint32_t>(t, "ranks", groups);
    int64_t total = 0;
    for (int g = 0; g < groups; ++g) total += known[g];
    if (total < 1 || total > INT32_MAX / 64) throw std::invalid_argument("the ranks of a table are too large");
    dim = int(total);
  }

  int64_t table_bytes() const { return 4 * int64_t(groups); }
  EMBSTORE_HD void fill(uint8_t* to, int thread, int threads) const {
    for (int g = thread; g < groups; g += threads) {
      int end = 0;
      for (int k = 0; k <= g; ++k) end += int(read(ranks + k));
      reinterpret_cast<int*>(to)[g] = end;
    }
  }
  EMBSTORE_HD void bind(const uint8_t* table) { ends = reinterpret_cast<const int*>(table); }

  EMBSTORE_HD Place place(int64_t id) const {
    const int g = read<uint8_t>(group + id);
    const uint64_t from = start_bytes == 4 ? read<uint32_t>(start + 4 * id) : read<unsigned long long>(start + 8 * id);
    if (g >= groups || from > uint64_t(count)) return {nullptr, 0, 0, 0.0f};
    const int first = g == 0 ? 0 : ends[g - 1], end = ends[g];
    if (int64_t(from) + (end - first) > count) return {nullptr, 0, 0, 0.0f};
    return {values + int64_t(from) * stored_bytes(kind), first, end,
            kind == Stored::kInt8 ? widen(read<uint16_t>(scale + 2 * id)) : 1.0f};
  }
  template <int V>
  EMBSTORE_HD FourStored fetch(const Place& at, int j) const {
    static_assert(V == 4);
    FourStored four = {};
    if (at.values == nullptr || j + V <= at.first || j >= at.end) return four;
    const int into = j - at.first;
    if (into >= 0) return read_four(at.values + int64_t(into) * stored_bytes(kind), kind, stored_bytes(kind));
#pragma unroll
    for (int k = 1; k < V; ++k) {
      if (into + k < 0) continue;
      const uint8_t* from = at.values + int64_t(into + k) * stored_bytes(kind);
      if (kind == Stored::kFloat)
        four.words[k] = read<uint32_t>(from);
      else if (kind == Stored::kHalf)
        four.words[k / 2] |= uint32_t(read<uint16_t>(from)) << (k % 2 * 16);
      else
        four.words[0] |= uint32_t(read<uint8_t>(from)) << (k * 8);
    }
    return four;
  }
  template <int V>
  EMBSTORE_HD void decode(const FourStored& raw, const Place& at, int j, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const float x = raw.value(k, kind);
      v[k] = j + k < at.first || j + k >= at.end ? 0.0f : kind == Stored::kInt8 ? x * at.by : x;
      if (at.values == nullptr) v[k] = bits_float(0x7fc00000);
    }
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  const int64_t dim = t.embedding_dim;
  if (t.params.integer("groups", 1) > 1) {
    const GroupedFactors factors(t);
    auto made = std::make_unique<MappedKernel>(row_kernel_of(factors, t), t.num_embeddings, factors.dim, true);
    made->append(sparse_map(factors.dim, dim, shared_items<float>(t, "basis", factors.dim * dim)), dim);
    return made;
  }
  const auto named = t.params.texts.find("factor");
  if (named == t.params.texts.end()) throw std::invalid_argument("svd needs to know how its factors are stored");
  const int64_t rank = t.params.integer("rank", 1);
  Table inner = t;
  inner.embedding_dim = rank;
  inner.params = Params();
  inner.params.integers = {{"symmetric", 1}, {"block_size", rank}};
  inner.params.texts["scale_dtype"] = "float16";
  const KernelFactory factory = find_method(named->second);
  if (factory == nullptr) throw std::invalid_argument("the factors of svd have no kernel");
  auto made = std::make_unique<MappedKernel>(factory(inner), t.num_embeddings, rank, true);
  made->append(affine_map(rank, dim, shared_items<float>(t, "basis", rank * dim), nullptr), dim);
  return made;
}

}  // namespace
EMBSTORE_CUDA_REGISTER(svd, kernel);
}  // namespace embstore::cuda
