#include "cuda/methods/_gather.cuh"
#include "cuda/methods/_table_rows.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

struct RowPlace {
  const uint8_t* row;
  uint32_t pattern;
};
struct OwnPlace {
  const uint8_t* row;
  uint32_t pattern;
  float weight, bias;
};

// Own: ids have a weight, and perhaps a bias.
template <class Row, bool Own>
struct Gather : NoTable {
  static constexpr int kColumns = Row::kColumns, kInFlight = Own ? 3 : 8;
  using Place = std::conditional_t<Own, OwnPlace, RowPlace>;
  int dim, align;
  int64_t row_bytes;
  const uint8_t* table;
  GatherPlan plan;

  Gather(const Table& t, const GatherPlan& p)
      : dim(int(t.embedding_dim)),
        row_bytes(Row::bytes(dim)),
        table(shared_items<uint8_t>(t, "table", p.rows * row_bytes)),
        plan(p) {
    align = alignment(table, row_bytes);
  }

  EMBSTORE_HD Place place(int64_t id) const {
    const GatherPlan::Found found = Own ? GatherPlan::Found{modulo(id, plan.rows), id / plan.rows} : plan.row_of(id);
    const uint8_t* row = table + found.row * row_bytes;
    const uint32_t pattern = plan.sign ? uint32_t(found.pattern) : 0;
    // Adding -0 changes no value.
    if constexpr (Own)
      return {row, pattern, read(plan.weight + id), plan.bias == nullptr ? -0.0f : read(plan.bias + id)};
    else
      return {row, pattern};
  }
  template <int V>
  EMBSTORE_HD typename Row::template Raw<V> fetch(const Place& at, int j) const {
    return Row::template fetch<V>(at.row, j, align);
  }
  template <int V>
  EMBSTORE_HD void decode(const typename Row::template Raw<V>& raw, const Place& at, int j, float (&v)[V]) const {
    Row::template values<V>(raw, v);
    if (at.pattern != 0) {
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] = count_ones(at.pattern & uint32_t(j + k)) % 2 != 0 ? -v[k] : v[k];
    }
    if constexpr (Own) {
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] = v[k] * at.weight + at.bias;
    }
  }
};

}  // namespace

std::unique_ptr<Kernel> gather_kernel(const Table& t, const GatherPlan& plan) {
  return by_table_dtype(t, [&](auto row) {
    using Row = decltype(row);
    return plan.weight == nullptr ? row_kernel_of(Gather<Row, false>(t, plan), t)
                                  : row_kernel_of(Gather<Row, true>(t, plan), t);
  });
}

}  // namespace embstore::cuda
