// Lookup and bag of every method that computes rows in stages, each from all values of the one before: layers, products
// with slices of cores, codes times a basis. A functor F is a plain struct that travels to the device by value, with
// EMBSTORE_HD functions:
//   int dim;                                           values per row
//   Place place(int64_t id) const;                     where what a row is made of lies, id in range; any small struct
//   int stages() const;                                at least 1
//   int width(int stage) const;                        values that a row has after a stage; dim after the last
//   float value(int stage, const Place&, const float* before, int k) const;
//       value k after a stage, from the values before it, which are null for stage 0 and lie in a block's own memory
//   static constexpr bool kLinear;                     the stages after the first are linear: bags of a sum or a mean
//   add
//                                                      what stage 0 gives and pass the rest once, as the host does;
//                                                      those stages are then given an empty Place
// A block takes a few rows at a time, or one bag, and a thread one value at a time.
#pragma once
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {

// How the values of a few rows lie in a block's own memory: two buffers by turns, and the sums of a bag behind them.
struct StageRoom {
  static constexpr int kMostBytes = 96 << 10;  // what every device that code is built for has
  int rows, widest;

  template <class F>
  explicit StageRoom(const F& f) {
    widest = 1;
    for (int s = 0; s < f.stages(); ++s) widest = f.width(s) > widest ? f.width(s) : widest;
    const int64_t row_bytes = int64_t(widest) * 4;
    if (3 * row_bytes > kMostBytes)
      throw std::invalid_argument("a row of this table needs more memory than a GPU has for a block of threads");
    rows = int(smaller<int64_t>(16, (48 << 10) / (2 * row_bytes)));
    rows = rows < 1 ? 1 : rows;
  }
  int64_t bytes(bool sums) const { return int64_t(2 * rows + (sums ? 1 : 0)) * widest * 4; }
  EMBSTORE_HD float* row(float* memory, int stage, int r) const {
    return memory + (int64_t(stage % 2) * rows + r) * widest;
  }
  EMBSTORE_HD float* sums(float* memory) const { return memory + int64_t(2 * rows) * widest; }
};

template <class F>
struct StagedLookup {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2;
  F f;
  LookupCall call;
  Output out;
  StageRoom room;
  int64_t limit, tiles;

  StagedLookup(const F& functor, int64_t num_embeddings, const LookupCall& c)
      : f(functor), call(c), out(c.out, functor.dim, c.half), room(functor), limit(num_embeddings) {
    tiles = (call.n + room.rows - 1) / room.rows;
  }
  int64_t blocks(const Target&) const { return tiles; }
  int64_t shared_bytes() const { return room.bytes(false); }
  EMBSTORE_HD int phases(const Grid&) const { return f.stages(); }

  EMBSTORE_HD void phase(int stage, const Grid& grid, uint8_t* shared) const {
    auto* memory = reinterpret_cast<float*>(shared);
    const int64_t first = grid.block * room.rows;
    const int rows = int(smaller<int64_t>(room.rows, call.n - first)), width = f.width(stage);
    for (int at = grid.thread; at < rows * width; at += kThreads) {
      const int r = at / width, k = at - r * width;
      const int64_t id = id_at(call, first + r);
      if (uint64_t(id) >= uint64_t(limit)) {
        if (stage == 0 && k == 0) report(call.fault, FaultKind::kId, call.position + first + r, id);
        continue;
      }
      const float* before = stage == 0 ? nullptr : room.row(memory, stage - 1, r);
      const float v = f.value(stage, f.place(id), before, k);
      if (stage + 1 < f.stages())
        room.row(memory, stage, r)[k] = v;
      else
        out.store_one(first + r, k, v);
    }
  }
};

// Phases of a bag: for each few of its rows the stages up to the one that is pooled, and their pooling; then the mean,
// and the stages that are left.
template <class F>
struct StagedBag {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2;
  F f;
  BagCall call;
  Output out;
  StageRoom room;
  int64_t limit;
  int pooled;  // the stage whose values are pooled

  StagedBag(const F& functor, int64_t num_embeddings, const BagCall& c)
      : f(functor),
        call(c),
        out(c.out, functor.dim, c.half),
        room(functor),
        limit(num_embeddings),
        pooled(F::kLinear && c.mode != BagMode::kMax ? 0 : functor.stages() - 1) {}
  int64_t blocks(const Target&) const { return call.bags; }
  int64_t shared_bytes() const { return room.bytes(true); }

  EMBSTORE_HD int phases(const Grid& grid) const {
    const Bounds bag = bounds_of(call, grid.block, false);
    return bag.begin == bag.end ? 1 : batches(bag) * (pooled + 2) + f.stages() - pooled;
  }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* memory = reinterpret_cast<float*>(shared);
    const Bounds bag = bounds_of(call, grid.block, p == 0 && grid.thread == 0);
    if (bag.begin == bag.end) {
      for (int k = grid.thread; k < f.dim; k += kThreads) out.store_one(grid.block, k, 0.0f);
      return;
    }
    const int per_batch = pooled + 2, batch = p / per_batch;
    if (batch >= batches(bag)) return finish(p - batches(bag) * per_batch, grid, bag.end - bag.begin, memory);
    const int64_t first = bag.begin + int64_t(batch) * room.rows;
    const int rows = int(smaller<int64_t>(room.rows, bag.end - first)), stage = p - batch * per_batch;
    if (stage > pooled)
      pool(grid.thread, first, rows, first == bag.begin, memory);
    else
      compute(grid.thread, stage, first, rows, memory);
  }

 private:
  EMBSTORE_HD int batches(const Bounds& bag) const { return int((bag.end - bag.begin + room.rows - 1) / room.rows); }

  EMBSTORE_HD void compute(int thread, int stage, int64_t first, int rows, float* memory) const {
    const int width = f.width(stage);
    for (int at = thread; at < rows * width; at += kThreads) {
      const int r = at / width, k = at - r * width;
      const int64_t id = read_integer(call.ids, first + r);
      if (uint64_t(id) >= uint64_t(limit)) {
        if (stage == 0 && k == 0) report(call.fault, FaultKind::kId, first + r, id);
        continue;
      }
      const float* before = stage == 0 ? nullptr : room.row(memory, stage - 1, r);
      room.row(memory, stage, r)[k] = f.value(stage, f.place(id), before, k);
    }
  }

  EMBSTORE_HD void pool(int thread, int64_t first, int rows, bool begins, float* memory) const {
    for (int k = thread; k < f.width(pooled); k += kThreads) {
      float sum = begins ? 0.0f : room.sums(memory)[k];
      for (int r = 0; r < rows; ++r) {
        if (uint64_t(read_integer(call.ids, first + r)) >= uint64_t(limit)) continue;
        const float v = room.row(memory, pooled, r)[k];
        if (call.mode == BagMode::kMax)
          sum = begins && r == 0 ? v : max_nan(sum, v);
        else
          sum = call.weights == nullptr ? sum + v : sum + v * read(call.weights + first + r);
      }
      room.sums(memory)[k] = sum;
    }
  }

  // Step 0 is the mean; the stages after the pooled one follow, or the row is there.
  EMBSTORE_HD void finish(int step, const Grid& grid, int64_t length, float* memory) const {
    const bool divide = call.mode == BagMode::kMean && length > 1;
    if (step == 0) {
      for (int k = grid.thread; k < f.width(pooled); k += kThreads) {
        float& sum = room.sums(memory)[k];
        if (divide) sum = sum / float(length);
        if (pooled + 1 == f.stages()) out.store_one(grid.block, k, sum);
      }
      return;
    }
    const int stage = pooled + step;
    const float* before = step == 1 ? room.sums(memory) : room.row(memory, stage - 1, 0);
    for (int k = grid.thread; k < f.width(stage); k += kThreads) {
      const float v = f.value(stage, decltype(f.place(0)){}, before, k);
      if (stage + 1 < f.stages())
        room.row(memory, stage, 0)[k] = v;
      else
        out.store_one(grid.block, k, v);
    }
  }
};

template <class F>
class BlockKernel final : public Kernel {
 public:
  explicit BlockKernel(const Table& table) : f_(table), num_embeddings_(table.num_embeddings) { StageRoom room(f_); }
  void lookup(const LookupCall& call, const Target& target) const override {
    launch(StagedLookup<F>(f_, num_embeddings_, call), target);
  }
  void bag(const BagCall& call, const Target& target) const override {
    launch(StagedBag<F>(f_, num_embeddings_, call), target);
  }

 private:
  F f_;
  int64_t num_embeddings_;
};

template <class F>
std::unique_ptr<Kernel> block_kernel(const Table& table) {
  return std::make_unique<BlockKernel<F>>(table);
}

}  // namespace embstore::cuda
