// tt: rows as products of slices of cores, from the first core to the last; stage s multiplies by core s + 1.
#include <string>

#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/block_decode.cuh"

namespace embstore::cuda {
namespace {

struct Core {
  const float* data;
  int64_t n, below;         // slices; rows that one of them stands for
  int depth, values, rank;  // a slice is depth x (values * rank)
  EMBSTORE_HD int width() const { return values * rank; }
  EMBSTORE_HD const float* slice(int64_t id) const { return data + id / below % n * depth * width(); }
};

struct TensorTrain {
  static constexpr bool kLinear = false;
  static constexpr int kMost = 8;
  struct Place {
    int64_t id;
  };
  int dim, count;
  Core cores[kMost];
  int widths[kMost];

  explicit TensorTrain(const Table& t) : dim(int(t.embedding_dim)) {
    const auto* size = host_items<int64_t>(t, "sizes", -1);
    count = int(t.shared.at("sizes").nbytes / 32);
    if (count < 2 || count > kMost) throw std::invalid_argument("a tensor train on a GPU has 2 to 8 cores");
    int64_t values = 1, depth = 1, rows = 1;
    for (int i = 0; i < count; ++i, size += 4) {
      const int64_t width = size[2] * size[3];
      if (size[1] != depth) throw std::invalid_argument("the cores do not fit each other");
      cores[i] = {shared_items<float>(t, "core" + std::to_string(i), size[0] * depth * width),
                  size[0],
                  1,
                  int(depth),
                  int(size[2]),
                  int(size[3])};
      rows *= size[0];
      values *= size[2];
      depth = size[3];
      widths[i] = int(values * depth);
    }
    if (depth != 1 || rows < t.num_embeddings || values < dim)
      throw std::invalid_argument("the cores do not make the table");
    for (int i = count - 1; i > 0; --i) cores[i - 1].below = cores[i].below * cores[i].n;
  }

  EMBSTORE_HD Place place(int64_t id) const { return {id}; }
  EMBSTORE_HD int stages() const { return count - 1; }
  EMBSTORE_HD int width(int stage) const { return stage + 2 == count ? dim : widths[stage + 1]; }
  EMBSTORE_HD float value(int stage, const Place& at, const float* before, int k) const {
    const Core& core = cores[stage + 1];
    const int r = k / core.width(), c = k - r * core.width();
    const float* slice = core.slice(at.id) + c;
    const float* first = cores[0].slice(at.id);
    float sum = 0.0f;
    for (int d = 0; d < core.depth; ++d) {
      const float product = (stage == 0 ? read(first + r * core.depth + d) : before[r * core.depth + d]) *
                            read(slice + int64_t(d) * core.width());
      sum = d == 0 ? product : sum + product;
    }
    return sum;
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(tt, block_kernel<TensorTrain>);
}  // namespace embstore::cuda
