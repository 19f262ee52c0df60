// Signs and Hadamard transforms undone: each row in a block's own memory, butterflies of three levels at a time in
// registers, smallest first.
#include <cmath>

#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/map.cuh"

namespace embstore::cuda {
namespace {

struct Rotate {
  int dim, stages, levels, window;  // window: 2^levels values are transformed at a time
  float scale;
  const uint8_t* signs;  // bits, each stage's in whole bytes
  int64_t sign_bytes;

  explicit Rotate(const MapView& view) : dim(int(view.out_dim)), levels(0), window(1) {
    const int64_t count = view.params.integer("stages", 0);
    sign_bytes = (dim + 7) / 8;
    if (view.in_dim != view.out_dim || count < 1)
      throw std::invalid_argument("the signs of rotate are missing or of the wrong size");
    stages = int(count);
    signs = shared_items<uint8_t>(view, "signs", count * sign_bytes);
    while (window * 2 <= dim) window *= 2, ++levels;
    scale = float(1.0 / std::sqrt(double(window)));
  }
};

struct RotateTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 3;
  static constexpr int kTogether = 3;  // levels of butterflies
  Rotate f;
  MapRows rows;
  int together;  // rows of a block
  int per_stage;

  RotateTask(const Rotate& rotate, const MapCall& call)
      : f(rotate), rows(call, rotate.dim), per_stage((rotate.levels + kTogether - 1) / kTogether + 1) {
    together = smaller(4096 / f.dim + 1, 16);
  }
  static int64_t row_bytes(int dim) { return 4 * (int64_t(dim) + dim / 32 + 1); }
  int64_t blocks(const Target&) const { return (rows.call.n + together - 1) / together; }
  int64_t shared_bytes() const { return together * row_bytes(f.dim); }
  EMBSTORE_HD int phases(const Grid&) const { return 1 + f.stages * per_stage; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* memory = reinterpret_cast<float*>(shared);
    const int64_t first = grid.block * together;
    const int count = int(smaller<int64_t>(together, rows.call.n - first));
    if (p == 0) {
      for (int at = grid.thread; at < count * f.dim; at += kThreads) {
        const int r = at / f.dim;
        value(memory, r, at - r * f.dim) = read(rows.call.in + first * f.dim + at);
      }
      return;
    }
    const int stage = f.stages - 1 - (p - 1) / per_stage, step = (p - 1) % per_stage;
    if (step + 1 == per_stage) return flip(grid, memory, first, count, stage);
    const int level = step * kTogether, left = f.levels - level;
    if (left >= 3)
      butterflies<3>(grid, memory, count, stage, level);
    else if (left == 2)
      butterflies<2>(grid, memory, count, stage, level);
    else
      butterflies<1>(grid, memory, count, stage, level);
  }

 private:
  // A value more for every 32: threads that are a power of two apart meet different banks of memory.
  EMBSTORE_HD float& value(float* memory, int r, int i) const {
    return memory[r * (f.dim + f.dim / 32 + 1) + i + i / 32];
  }
  EMBSTORE_HD int begin(int stage) const { return stage % 2 == 0 ? 0 : f.dim - f.window; }

  template <int N>
  EMBSTORE_HD void butterflies(const Grid& grid, float* memory, int count, int stage, int level) const {
    constexpr int kValues = 1 << N;
    const int each = f.window >> N, from = begin(stage), h = 1 << level;
    for (int at = grid.thread; at < count * each; at += kThreads) {
      const int r = at / each, t = at - r * each;
      const int base = from + ((t >> level) << (level + N)) + (t & (h - 1));
      float x[kValues];
#pragma unroll
      for (int i = 0; i < kValues; ++i) x[i] = value(memory, r, base + i * h);
#pragma unroll
      for (int apart = 1; apart < kValues; apart *= 2)
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          if ((i & apart) != 0) continue;
          const float a = x[i], b = x[i + apart];
          x[i] = a + b;
          x[i + apart] = a - b;
        }
#pragma unroll
      for (int i = 0; i < kValues; ++i) value(memory, r, base + i * h) = x[i];
    }
  }

  // What ends a stage: the window scaled, signs flipped, and after the last one rows stored.
  EMBSTORE_HD void flip(const Grid& grid, float* memory, int64_t first, int count, int stage) const {
    const int each = (f.dim + 3) / 4, from = begin(stage);
    for (int at = grid.thread; at < count * each; at += kThreads) {
      const int r = at / each, j = (at - r * each) * 4;
      const uint32_t bits = read(f.signs + stage * f.sign_bytes + j / 8) >> (j % 8);
      float v[4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (j + k >= f.dim) continue;
        const bool inside = j + k >= from && j + k < from + f.window;
        const float x = value(memory, r, j + k), scaled = inside ? x * f.scale : x;
        v[k] = (bits >> k & 1) != 0 ? -scaled : scaled;
        if (stage > 0) value(memory, r, j + k) = v[k];
      }
      if (stage == 0) rows.store(first + r, j, v);
    }
  }
};

class RotateMap final : public Map {
 public:
  explicit RotateMap(const MapView& view) : rotate_(view) {
    if (RotateTask::row_bytes(rotate_.dim) > 96 << 10)
      throw std::invalid_argument("a row of this table needs more memory than a GPU has for a block of threads");
  }
  void run(const MapCall& call, const Target& target) const override { launch(RotateTask(rotate_, call), target); }

 private:
  Rotate rotate_;
};

std::unique_ptr<Map> rotate(const MapView& view) { return std::make_unique<RotateMap>(view); }

}  // namespace
EMBSTORE_CUDA_REGISTER_TRANSFORM(rotate, rotate);
}  // namespace embstore::cuda
