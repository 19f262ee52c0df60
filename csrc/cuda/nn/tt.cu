// Rows as products of a slice of each core, by the digits of the id, and the gradients of the slices. A block takes a
// few rows at a time. In its own memory it keeps their digits and, for each core between the first and the last, the
// product up to it and, backward, that product's gradient; with two cores neither, and one pass gives both gradients.
#include <string>

#include "cuda/methods/_integers.cuh"
#include "cuda/skeletons/trained.cuh"

namespace embstore::cuda {
namespace {

constexpr int kMost = 4;

// A slice is depth x width, width = values * rank. The product up to it is outer x width, that before it outer x depth.
struct Core {
  const float* values;
  float* gradient;
  int64_t n, below;  // slices; rows that one of them stands for
  int depth, width, outer;
  int first;  // of the product's floats, in a row's part of a block's memory
  EMBSTORE_HD const float* slice(int digit) const { return values + int64_t(digit) * depth * width; }
  EMBSTORE_HD float* slice_gradient(int digit) const { return gradient + int64_t(digit) * depth * width; }
};

struct Cores {
  int dim, count;
  int kept = 0;  // floats of the products that a row keeps
  Core core[kMost];

  explicit Cores(const TrainedCall& c) : dim(int(c.dim)), count(int(c.params.integer("cores", 2))) {
    if (count < 2 || count > kMost) throw std::invalid_argument("a tensor train in training has 2 to 4 cores");
    int64_t depth = 1, outer = 1, rows = 1;
    for (int i = 0; i < count; ++i) {
      const std::string at = std::to_string(i);
      const int64_t n = c.params.integer(("rows" + at).c_str(), 0),
                    values = c.params.integer(("values" + at).c_str(), 0);
      const int64_t rank = i < count - 1 ? c.params.integer(("rank" + at).c_str(), 0) : 1;
      if (n < 1 || values < 1 || rank < 1 || values * rank * depth > INT32_MAX || outer * values * rank > INT32_MAX)
        throw std::invalid_argument("the sizes of the cores are not those of a tensor train");
      const int64_t items = n * depth * values * rank;
      core[i] = {c.values<float>("core" + at, items),
                 c.gradient("core" + at, items),
                 n,
                 1,
                 int(depth),
                 int(values * rank),
                 int(outer),
                 kept};
      if (i > 0 && i < count - 1) kept += int(outer * values * rank);
      depth = rank, outer *= values, rows *= n;
    }
    if (rows < c.num_embeddings || outer < dim) throw std::invalid_argument("the cores do not make the table");
    for (int i = count - 1; i > 0; --i) core[i - 1].below = core[i].below * core[i].n;
  }
};

template <bool Backward>
struct Task {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2, kMostRows = 16, kMostBytes = 48 << 10;
  Cores cores;
  const int64_t* ids;
  float* rows;  // or their gradient
  int64_t n, limit, tiles;
  int per_block;

  Task(const Cores& c, const TrainedCall& call)
      : cores(c), ids(call.ids), rows(call.rows), n(call.n), limit(call.num_embeddings) {
    if (row_bytes() > kMostBytes)
      throw std::invalid_argument("a row of this table needs more memory than a GPU has for a block of threads");
    const Core& last = c.core[c.count - 1];
    const int64_t items = Backward ? int64_t(last.depth) * (last.width + last.outer) : c.dim;
    per_block = int(smaller<int64_t>(kMostRows, kMostBytes / row_bytes()));
    per_block = int(smaller<int64_t>(per_block, 1 + 4 * kThreads / items));
    tiles = (n + per_block - 1) / per_block;
  }
  int row_bytes() const { return 4 * (kMost + (Backward ? 2 : 1) * cores.kept); }
  int64_t blocks(const Target&) const { return tiles; }
  int64_t shared_bytes() const { return int64_t(per_block) * row_bytes(); }
  // Digits; the products up to each core but the first and the last; the rows, or gradients from the last core on.
  EMBSTORE_HD int phases(const Grid&) const { return 1 + cores.count - 2 + (Backward ? cores.count - 1 : 1); }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    const int64_t first = grid.block * per_block;
    const int count = int(smaller<int64_t>(per_block, n - first));
    if (p == 0) {
      for (int at = grid.thread; at < count * cores.count; at += kThreads) find(at, first, shared);
    } else if (p < cores.count - 1) {
      const int items = cores.core[p].outer * cores.core[p].width;
      for (int at = grid.thread; at < count * items; at += kThreads) {
        const int r = at / items, k = at - r * items;
        if (!known(shared, r)) continue;
        product(shared, r, p)[k] = value(shared, r, p, k);
      }
    } else if constexpr (Backward) {
      const int i = 2 * (cores.count - 1) - p;
      const Core& core = cores.core[i];
      const int items = core.depth * (core.width + core.outer);
      for (int at = grid.thread; at < count * items; at += kThreads) {
        const int r = at / items, k = at - r * items, own = core.depth * core.width;
        if (!known(shared, r)) continue;
        if (k < own)
          add_slice(shared, r, i, k, first + r);
        else
          add_before(shared, r, i, k - own, first + r);
      }
    } else {
      for (int at = grid.thread; at < count * cores.dim; at += kThreads) {
        const int r = at / cores.dim, k = at - r * cores.dim;
        if (!known(shared, r)) continue;
        rows[(first + r) * cores.dim + k] = value(shared, r, cores.count - 1, k);
      }
    }
  }

 private:
  EMBSTORE_HD void find(int at, int64_t first, uint8_t* shared) const {
    const int r = at / cores.count, i = at - r * cores.count;
    const int64_t id = read_integer({ids, true}, first + r);
    const bool in_range = uint64_t(id) < uint64_t(limit);
    digits(shared, r)[i] = in_range ? int(modulo(quotient(id, cores.core[i].below), cores.core[i].n)) : -1;
    if (!in_range) stop();
  }
  EMBSTORE_HD bool known(uint8_t* shared, int r) const { return digits(shared, r)[0] >= 0; }
  EMBSTORE_HD int* digits(uint8_t* shared, int r) const { return reinterpret_cast<int*>(shared) + r * kMost; }
  // Of a core between the first and the last.
  EMBSTORE_HD float* product(uint8_t* shared, int r, int i) const {
    return reinterpret_cast<float*>(digits(shared, per_block)) + r * cores.kept + cores.core[i].first;
  }
  EMBSTORE_HD float* product_gradient(uint8_t* shared, int r, int i) const {
    return product(shared, per_block, 0) + r * cores.kept + cores.core[i].first;
  }
  EMBSTORE_HD const float* product_before(uint8_t* shared, int r, int i) const {
    return i == 1 ? cores.core[0].slice(digits(shared, r)[0]) : product(shared, r, i - 1);
  }
  // Value k of the product up to core i, or of its gradient below.
  EMBSTORE_HD float value(uint8_t* shared, int r, int i, int k) const {
    const Core& core = cores.core[i];
    const int a = k / core.width, c = k - a * core.width;
    const float* before = product_before(shared, r, i) + a * core.depth;
    const float* slice = core.slice(digits(shared, r)[i]) + c;
    float sum = 0.0f;
    for (int d = 0; d < core.depth; ++d) sum = sum + before[d] * read(slice + int64_t(d) * core.width);
    return sum;
  }
  EMBSTORE_HD float gradient(uint8_t* shared, int r, int i, int64_t row, int k) const {
    if (i < cores.count - 1) return product_gradient(shared, r, i)[k];
    return k < cores.dim ? read(rows + row * cores.dim + k) : 0.0f;
  }
  EMBSTORE_HD void add_slice(uint8_t* shared, int r, int i, int k, int64_t row) const {
    const Core& core = cores.core[i];
    const int d = k / core.width, c = k - d * core.width;
    const float* before = product_before(shared, r, i) + d;
    float sum = 0.0f;
    for (int a = 0; a < core.outer; ++a)
      sum = sum + before[a * core.depth] * gradient(shared, r, i, row, a * core.width + c);
    add_one(core.slice_gradient(digits(shared, r)[i]) + k, sum);
  }
  // To the product before core i, which is a slice of the first core where i is 1.
  EMBSTORE_HD void add_before(uint8_t* shared, int r, int i, int k, int64_t row) const {
    const Core& core = cores.core[i];
    const int a = k / core.depth, d = k - a * core.depth;
    const float* slice = core.slice(digits(shared, r)[i]) + d * core.width;
    float sum = 0.0f;
    for (int c = 0; c < core.width; ++c) sum = sum + gradient(shared, r, i, row, a * core.width + c) * read(slice + c);
    if (i == 1)
      add_one(cores.core[0].slice_gradient(digits(shared, r)[0]) + k, sum);
    else
      product_gradient(shared, r, i - 1)[k] = sum;
  }
};

void tt_rows(const TrainedCall& call, const Target& target) {
  if (call.dim < 1 || call.dim > INT32_MAX / 64) throw std::invalid_argument("rows are too wide for a device");
  const Cores cores(call);
  if (call.backward)
    launch(Task<true>(cores, call), target);
  else
    launch(Task<false>(cores, call), target);
}

}  // namespace
EMBSTORE_CUDA_REGISTER_TRAINED(tt, tt_rows);
}  // namespace embstore::cuda
