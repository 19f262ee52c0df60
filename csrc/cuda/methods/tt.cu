// tt: rows as products of slices of cores, from the first core to the last; stage s multiplies by core s + 1. Products
// with slices of codes are then multiplied by the slice's scale.
#include <string>
#include <type_traits>

#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/block_decode.cuh"

namespace embstore::cuda {
namespace {

EMBSTORE_HD float value_at(const float* at) { return read(at); }
EMBSTORE_HD float value_at(const int8_t* at) {
  return float(int8_t(read<uint8_t>(reinterpret_cast<const uint8_t*>(at))));
}

// Item: float, or int8_t with a scale a slice.
template <class Item>
struct Core {
  static constexpr bool kScaled = !std::is_same_v<Item, float>;
  const Item* data;
  const float* scales;
  int64_t n, below;         // slices; rows that one of them stands for
  int depth, values, rank;  // a slice is depth x (values * rank)
  EMBSTORE_HD int width() const { return values * rank; }
  EMBSTORE_HD int64_t digit(int64_t id) const { return id / below % n; }
  EMBSTORE_HD const Item* slice(int64_t digit) const { return data + digit * depth * width(); }
  EMBSTORE_HD float scaled(float product, int64_t digit) const {
    if constexpr (kScaled) return product * read(scales + digit);
    return product;
  }
};

template <class Item>
struct TensorTrain {
  static constexpr bool kLinear = false;
  static constexpr int kMost = 8;
  struct Place {
    int64_t id;
  };
  int dim, count;
  Core<Item> cores[kMost];
  int widths[kMost];

  explicit TensorTrain(const Table& t) : dim(int(t.embedding_dim)) {
    const auto* size = host_items<int64_t>(t, "sizes", -1);
    count = int(t.shared.at("sizes").nbytes / 32);
    if (count < 2 || count > kMost) throw std::invalid_argument("a tensor train on a GPU has 2 to 8 cores");
    int64_t values = 1, depth = 1, rows = 1;
    for (int i = 0; i < count; ++i, size += 4) {
      const int64_t width = size[2] * size[3];
      if (size[1] != depth) throw std::invalid_argument("the cores do not fit each other");
      const std::string name = std::to_string(i);
      cores[i] = {shared_items<Item>(t, "core" + name, size[0] * depth * width),
                  Core<Item>::kScaled ? shared_items<float>(t, "scale" + name, size[0]) : nullptr,
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
    const Core<Item>& first = cores[0];
    const Core<Item>& core = cores[stage + 1];
    const int64_t begin = first.digit(at.id), digit = core.digit(at.id);
    const int r = k / core.width(), c = k - r * core.width();
    const Item* slice = core.slice(digit) + c;
    const Item* row = first.slice(begin) + r * core.depth;
    float sum = 0.0f;
    for (int d = 0; d < core.depth; ++d) {
      const float left = stage == 0 ? first.scaled(value_at(row + d), begin) : before[r * core.depth + d];
      const float product = left * value_at(slice + int64_t(d) * core.width());
      sum = d == 0 ? product : sum + product;
    }
    return core.scaled(sum, digit);
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  return t.params.is("core_dtype", "int8") ? block_kernel<TensorTrain<int8_t>>(t) : block_kernel<TensorTrain<float>>(t);
}

}  // namespace
EMBSTORE_CUDA_REGISTER(tt, kernel);
}  // namespace embstore::cuda
