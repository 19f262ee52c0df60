// A row of each of up to four tables, by the digits of the id: multiplied, added or side by side.
#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/methods/_table_rows.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

enum class Op { kMultiply, kAdd, kConcat };
constexpr int kMost = 4;

template <class Row>
struct CompoTables : NoTable {
  struct Place {
    const uint8_t* rows[kMost];
  };
  int dim, count;
  Op op;
  int64_t collisions;
  const uint8_t* tables[kMost] = {};
  int firsts[kMost] = {}, widths[kMost] = {}, aligns[kMost] = {};  // columns of a row that a table has

  explicit CompoTables(const Table& t)
      : dim(int(t.embedding_dim)),
        count(int(t.params.integer("partitions", 2))),
        op(t.params.is("op", "concat") ? Op::kConcat
           : t.params.is("op", "add")  ? Op::kAdd
                                       : Op::kMultiply),
        collisions(t.params.integer("collisions", 1)) {
    if (count < 1 || count > kMost) throw std::invalid_argument("partitions must be from 1 to 4");
    if (collisions < 1) throw std::invalid_argument("collisions must be at least 1");
    int64_t last = t.num_embeddings > 0 ? t.num_embeddings - 1 : 0;
    for (int i = 0, first = 0; i < count; ++i) {
      widths[i] = op == Op::kConcat ? dim / count + (i < dim % count) : dim;
      firsts[i] = op == Op::kConcat ? first : 0;
      first += widths[i];
      const int64_t rows = i < count - 1 ? collisions : last + 1, bytes = Row::bytes(widths[i]);
      last /= collisions;
      tables[i] = shared_items<uint8_t>(t, "table" + std::to_string(i), rows * bytes);
      aligns[i] = alignment(tables[i], bytes);
    }
  }

  EMBSTORE_HD Place place(int64_t id) const {
    Place at;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= count) continue;
      const int64_t left = i < count - 1 ? quotient(id, collisions) : 0;
      at.rows[i] = tables[i] + (i < count - 1 ? id - left * collisions : id) * Row::bytes(widths[i]);
      id = left;
    }
    return at;
  }
};

template <int V>
struct Composed {
  float v[V];
};

// Rows multiplied or added, as they are loaded: those of all tables would take more registers than there are.
template <class Row>
struct Together : CompoTables<Row> {
  static constexpr int kColumns = Row::kColumns > 8 ? 8 : Row::kColumns, kInFlight = 2;
  using Place = typename CompoTables<Row>::Place;
  explicit Together(const Table& t) : CompoTables<Row>(t) {}

  template <int V>
  EMBSTORE_HD Composed<V> fetch(const Place& at, int j) const {
    // Two tables at a time.
    Composed<V> made;
#pragma unroll
    for (int i = 0; i < kMost; i += 2) {
      if (i >= this->count) continue;
      const bool both = i + 1 < this->count;
      typename Row::template Raw<V> raw[2];
      raw[0] = Row::template fetch<V>(at.rows[i], j, this->aligns[i]);
      if (both) raw[1] = Row::template fetch<V>(at.rows[i + 1], j, this->aligns[i + 1]);
      if (i == 0)
        Row::template values<V>(raw[0], made.v);
      else
        compose<V>(raw[0], made);
      if (both) compose<V>(raw[1], made);
    }
    return made;
  }
  template <int V>
  EMBSTORE_HD void decode(const Composed<V>& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = raw.v[k];
  }

 private:
  template <int V>
  EMBSTORE_HD void compose(const typename Row::template Raw<V>& raw, Composed<V>& made) const {
    float v[V];
    Row::template values<V>(raw, v);
#pragma unroll
    for (int k = 0; k < V; ++k) made.v[k] = this->op == Op::kAdd ? made.v[k] + v[k] : made.v[k] * v[k];
  }
};

// Rows side by side. Where a table begins is no multiple of anything: columns are read one by one unless they and the
// table's first are multiples of 4.
template <class Row>
struct Beside : CompoTables<Row> {
  static constexpr int kColumns = 4, kInFlight = 2;
  using Place = typename CompoTables<Row>::Place;
  explicit Beside(const Table& t) : CompoTables<Row>(t) {}

  template <int V>
  EMBSTORE_HD Composed<V> fetch(const Place& at, int j) const {
    const Part part = part_of(at, j);
    Composed<V> made;
    if (part.column % V == 0 && (part.column + V <= part.width || j + V > this->dim)) {
      Row::template values<V>(Row::template fetch<V>(part.row, part.column, part.align), made.v);
      return made;
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const Part one = part_of(at, j + k);
      made.v[k] = j + k < this->dim ? Row::one(one.row, one.column) : 0.0f;
    }
    return made;
  }
  template <int V>
  EMBSTORE_HD void decode(const Composed<V>& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = raw.v[k];
  }

 private:
  struct Part {
    const uint8_t* row;
    int column, width, align;
  };
  EMBSTORE_HD Part part_of(const Place& at, int j) const {
    Part part{at.rows[0], j, this->widths[0], this->aligns[0]};
#pragma unroll
    for (int i = 1; i < kMost; ++i)
      if (i < this->count && j >= this->firsts[i])
        part = {at.rows[i], j - this->firsts[i], this->widths[i], this->aligns[i]};
    return part;
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  return by_table_dtype(t, [&](auto row) {
    using Row = decltype(row);
    return t.params.is("op", "concat") ? row_kernel<Beside<Row>>(t) : row_kernel<Together<Row>>(t);
  });
}

}  // namespace
EMBSTORE_CUDA_REGISTER(compo, kernel);
}  // namespace embstore::cuda
