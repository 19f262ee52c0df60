// tt: rows as products of slices of cores, from the first core to the last.
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "skeletons/multiply.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Core {
  const float* data;
  int64_t n, depth, values, rank;  // slices; each is depth x (values * rank)
  int64_t width() const { return values * rank; }
  const float* slice(int64_t digit) const { return data + digit * depth * width(); }
};

struct TensorTrain : NoColumns {
  Ids arrays;
  int64_t dim, line_bytes = 64, serial;
  using Place = Ids::Place;
  std::vector<Core> cores;

  explicit TensorTrain(const TableView& t) : dim(t.embedding_dim) {
    static std::atomic<int64_t> made{0};
    serial = ++made;
    const auto& sizes = t.shared.at("sizes");
    const auto* size = reinterpret_cast<const int64_t*>(sizes.data);
    const int64_t count = sizes.nbytes / 32;
    int64_t rows = 1, values = 1, depth = 1;
    for (int64_t i = 0; i < count; ++i, size += 4) {
      const auto& core = t.shared.at("core" + std::to_string(i));
      cores.push_back({reinterpret_cast<const float*>(core.data), size[0], size[1], size[2], size[3]});
      if (size[1] != depth || core.nbytes != size[0] * size[1] * size[2] * size[3] * 4)
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
    const Core& last = cores.back();
    const int64_t prefix = id / last.n;
    if (scratch.serial != serial || scratch.prefix != prefix) multiply_prefix(prefix, scratch);
    const int64_t rows = int64_t(scratch.product.size()) / last.depth;
    scratch.row.resize(size_t(rows * last.width()));
    multiply(scratch.product.data(), rows, last.depth, last.slice(id % last.n), last.width(), scratch.row.data());
    const float* row = scratch.row.data();
    int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, 1>(j, dim, [&](int64_t at) { sink.many(at, load(row + at)); });
#endif
    for (; j < dim; ++j) sink.one(j, row[j]);
  }

 private:
  void multiply_prefix(int64_t prefix, Scratch& scratch) const {
    int64_t below = 1;
    for (size_t i = 1; i + 1 < cores.size(); ++i) below *= cores[i].n;
    const Core& first = cores.front();
    const float* slice = first.slice(prefix / below);
    scratch.product.assign(slice, slice + first.width());
    int64_t rows = first.values;
    for (size_t i = 1; i + 1 < cores.size(); ++i) {
      const Core& core = cores[i];
      below /= core.n;
      scratch.other.resize(size_t(rows * core.width()));
      multiply(scratch.product.data(), rows, core.depth, core.slice(prefix / below % core.n), core.width(),
               scratch.other.data());
      scratch.product.swap(scratch.other);
      rows *= core.values;
    }
    scratch.serial = serial;
    scratch.prefix = prefix;
  }
};

std::unique_ptr<Kernel> tt_kernel(const TableView& table) {
  return std::make_unique<RowKernel<TensorTrain>>(TensorTrain(table));
}

}  // namespace
EMBSTORE_REGISTER(tt, tt_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
