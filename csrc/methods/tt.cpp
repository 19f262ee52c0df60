// tt: rows as products of slices of cores, from the first core to the last. Slices of codes are multiplied as they are,
// and each product then by the slice's scale.
#include <atomic>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "skeletons/multiply.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <class Item>
struct Core {
  const Item* data;
  const float* scales;             // one a slice; null for floats
  int64_t n, depth, values, rank;  // slices; each is depth x (values * rank)
  int64_t width() const { return values * rank; }
  const Item* slice(int64_t digit) const { return data + digit * depth * width(); }
};

// Item: float or int8_t.
template <class Item>
struct TensorTrain : NoColumns {
  static constexpr bool kScaled = !std::is_same_v<Item, float>;
  Ids arrays;
  int64_t dim, line_bytes = 64, serial;
  using Place = Ids::Place;
  std::vector<Core<Item>> cores;

  explicit TensorTrain(const TableView& t) : dim(t.embedding_dim) {
    static std::atomic<int64_t> made{0};
    serial = ++made;
    const auto& sizes = t.shared.at("sizes");
    const auto* size = reinterpret_cast<const int64_t*>(sizes.data);
    const int64_t count = sizes.nbytes / 32;
    int64_t rows = 1, values = 1, depth = 1;
    for (int64_t i = 0; i < count; ++i, size += 4) {
      const auto& core = t.shared.at("core" + std::to_string(i));
      const float* scales = nullptr;
      if (kScaled) {
        const auto& scale = t.shared.at("scale" + std::to_string(i));
        if (scale.nbytes != size[0] * 4) throw std::invalid_argument("a core must have a scale for each slice");
        scales = reinterpret_cast<const float*>(scale.data);
      }
      cores.push_back({reinterpret_cast<const Item*>(core.data), scales, size[0], size[1], size[2], size[3]});
      if (size[1] != depth || core.nbytes != size[0] * size[1] * size[2] * size[3] * int64_t(sizeof(Item)))
        throw std::invalid_argument("the cores do not fit each other");
      rows *= size[0];
      values *= size[2];
      depth = size[3];
    }
    if (count < 2 || depth != 1 || rows < t.num_embeddings || values < dim)
      throw std::invalid_argument("the cores do not make the table");
  }

  // The product of all cores but the last is kept: the rows of a scan share it in runs.
  struct Scratch {
    int64_t serial = 0, prefix = -1;
    std::vector<float> product, other, row;
  };

  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const int64_t id = place[0];
    thread_local Scratch scratch;
    const Core<Item>& last = cores.back();
    const int64_t prefix = id / last.n, digit = id - prefix * last.n;
    if (scratch.serial != serial || scratch.prefix != prefix) multiply_prefix(prefix, scratch);
    const int64_t rows = int64_t(scratch.product.size()) / last.depth;
    scratch.row.resize(size_t(rows * last.width()));
    multiply(scratch.product.data(), rows, last.depth, last.slice(digit), last.width(), scratch.row.data());
    const float* row = scratch.row.data();
    const float by = kScaled ? last.scales[digit] : 1.0f;
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, 1>(
        j, dim, [&](int64_t at) { sink.many(at, kScaled ? mul(load(row + at), set1(by)) : load(row + at)); });
#endif
    for (; j < dim; ++j) sink.one(j, kScaled ? row[j] * by : row[j]);
  }

 private:
  void multiply_prefix(int64_t prefix, Scratch& scratch) const {
    int64_t below = 1;
    for (size_t i = 1; i + 1 < cores.size(); ++i) below *= cores[i].n;
    const Core<Item>& first = cores.front();
    int64_t digit = prefix / below;
    open(first, digit, scratch.product);
    int64_t rows = first.values;
    for (size_t i = 1; i + 1 < cores.size(); ++i) {
      const Core<Item>& core = cores[i];
      below /= core.n;
      digit = prefix / below % core.n;
      scratch.other.resize(size_t(rows * core.width()));
      multiply(scratch.product.data(), rows, core.depth, core.slice(digit), core.width(), scratch.other.data());
      scale(scratch.other, core, digit);
      scratch.product.swap(scratch.other);
      rows *= core.values;
    }
    scratch.serial = serial;
    scratch.prefix = prefix;
  }
  static void scale(std::vector<float>& product, const Core<Item>& core, int64_t digit) {
    if constexpr (kScaled) {
      const float by = core.scales[digit];
      for (float& value : product) value *= by;
    }
  }
  static void open(const Core<Item>& core, int64_t digit, std::vector<float>& to) {
    const Item* from = core.slice(digit);
    const int64_t n = core.width();
    to.resize(size_t(n));
    const float by = kScaled ? core.scales[digit] : 1.0f;
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    for (; j + Width <= n; j += Width) {
      const Floats values = widened(from + j);
      store(to.data() + j, kScaled ? mul(values, set1(by)) : values);
    }
#endif
    for (; j < n; ++j) to[size_t(j)] = kScaled ? float(from[j]) * by : float(from[j]);
  }
};

std::unique_ptr<Kernel> tt_kernel(const TableView& table) {
  if (table.params.is("core_dtype", "int8"))
    return std::make_unique<RowKernel<TensorTrain<int8_t>>>(TensorTrain<int8_t>(table));
  return std::make_unique<RowKernel<TensorTrain<float>>>(TensorTrain<float>(table));
}

}  // namespace
EMBSTORE_REGISTER(tt, tt_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
