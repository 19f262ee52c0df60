// A row of each of up to four tables, by the digits of the id: multiplied, added or side by side.
#include "cuda/methods/_integers.cuh"
#include "cuda/skeletons/trained.cuh"

namespace embstore::cuda {
namespace {

enum class Op { kMultiply, kAdd, kConcat };
constexpr int kMost = 4;

struct Compo {
  struct Place {
    int64_t first[kMost];  // of the row, among the values of its table
  };
  int dim, count;
  Op op;
  int64_t collisions;
  const float* tables[kMost] = {};
  float* gradients[kMost] = {};
  int firsts[kMost] = {}, widths[kMost] = {};  // columns of a row that a table has
  bool wide = true;

  explicit Compo(const TrainedCall& c)
      : dim(int(c.dim)),
        count(int(c.params.integer("partitions", 2))),
        op(c.params.is("op", "concat") ? Op::kConcat
           : c.params.is("op", "add")  ? Op::kAdd
                                       : Op::kMultiply),
        collisions(c.params.integer("collisions", 1)) {
    if (count < 1 || count > kMost) throw std::invalid_argument("partitions must be from 1 to 4");
    if (collisions < 1) throw std::invalid_argument("collisions must be at least 1");
    int64_t last = c.num_embeddings > 0 ? c.num_embeddings - 1 : 0;
    for (int i = 0, first = 0; i < count; ++i) {
      widths[i] = op == Op::kConcat ? dim / count + (i < dim % count) : dim;
      firsts[i] = op == Op::kConcat ? first : 0;
      first += widths[i];
      const int64_t items = (i < count - 1 ? collisions : last + 1) * widths[i];
      last /= collisions;
      const std::string name = "table" + std::to_string(i);
      tables[i] = c.values<float>(name, items);
      gradients[i] = c.gradient(name, items);
      wide = wide && aligned_to_four(tables[i], widths[i]) && aligned_to_four(gradients[i], widths[i]);
    }
  }

  EMBSTORE_HD Place place(int64_t id) const {
    Place at;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= count) continue;
      const int64_t left = i < count - 1 ? quotient(id, collisions) : 0;
      at.first[i] = (i < count - 1 ? id - left * collisions : id) * widths[i];
      id = left;
    }
    return at;
  }

  EMBSTORE_HD void rows(const Place& at, int j, int n, float (&v)[4]) const {
    if (op == Op::kConcat) {
      each_part(at, j, n, [&](int i, int64_t from, int k, int many) {
        float part[4];
        load_four(tables[i] + from, many, wide, part);
#pragma unroll
        for (int l = 0; l < 4; ++l)
          if (l >= k && l < k + many) v[l] = part[wide ? l : 0];
      });
      return;
    }
    load_four(tables[0] + at.first[0] + j, n, wide, v);
#pragma unroll
    for (int i = 1; i < kMost; ++i) {
      if (i >= count) continue;
      float part[4];
      load_four(tables[i] + at.first[i] + j, n, wide, part);
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = op == Op::kAdd ? v[k] + part[k] : v[k] * part[k];
    }
  }

  EMBSTORE_HD void add(const Place& at, int j, int n, const float (&g)[4]) const {
    if (op == Op::kConcat) {
      each_part(at, j, n, [&](int i, int64_t from, int k, int many) {
        if (wide) return add_four(gradients[i] + from, many, true, g);
#pragma unroll
        for (int l = 0; l < 4; ++l)
          if (l == k) add_one(gradients[i] + from, g[l]);
      });
    } else if (op == Op::kAdd) {
#pragma unroll
      for (int i = 0; i < kMost; ++i)
        if (i < count) add_four(gradients[i] + at.first[i] + j, n, wide, g);
    } else {
      add_products(at, j, n, g);
    }
  }

 private:
  // Of the product p0 p1 p2 …, from its end: the gradient of the last factor, then of what came before it.
  EMBSTORE_HD void add_products(const Place& at, int j, int n, const float (&g)[4]) const {
    float parts[kMost][4], upper[4], own[4];
#pragma unroll
    for (int i = 0; i < kMost; ++i)
      if (i < count) load_four(tables[i] + at.first[i] + j, n, wide, parts[i]);
#pragma unroll
    for (int k = 0; k < 4; ++k) upper[k] = g[k];
#pragma unroll
    for (int i = kMost - 1; i > 0; --i) {
      if (i >= count) continue;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float before = parts[0][k];
#pragma unroll
        for (int m = 1; m < i; ++m) before = before * parts[m][k];
        own[k] = upper[k] * before;
        upper[k] = upper[k] * parts[i][k];
      }
      add_four(gradients[i] + at.first[i] + j, n, wide, own);
    }
    add_four(gradients[0] + at.first[0] + j, n, wide, upper);
  }

  // body(table, place among its values, first of the n columns, how many): 4 at once, or one by one where a table may
  // begin anywhere.
  template <class Body>
  EMBSTORE_HD void each_part(const Place& at, int j, int n, Body body) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k >= n || (wide && k > 0)) continue;
      int64_t from = at.first[0] + j + k;
      int table = 0;
#pragma unroll
      for (int i = 1; i < kMost; ++i)
        if (i < count && j + k >= firsts[i]) from = at.first[i] + j + k - firsts[i], table = i;
      body(table, from, k, wide ? 4 : 1);
    }
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER_TRAINED(compo, trained<Compo>);
}  // namespace embstore::cuda
