#include <algorithm>
#include <new>

#include "cuda/core/transform.h"
#include "cuda/skeletons/map.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

std::map<std::string, TransformFactory>& all() {
  static std::map<std::string, TransformFactory> transforms;
  return transforms;
}

// Memory in the order of a stream, until the end of a call.
class Room {
 public:
  Room(const Target& target, int64_t nbytes) : target_(target) {
    nbytes = (nbytes < 1 ? 1 : nbytes) + kPadding;
    if (target.device < 0)
      at_ = ::operator new(size_t(nbytes), std::align_val_t(256));
    else
      at_ = allocate_on(target.device, nbytes, target.stream);
  }
  ~Room() {
    if (target_.device < 0)
      ::operator delete(at_, std::align_val_t(256));
    else
      release_on(target_.device, at_, target_.stream);
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  float* floats() const { return static_cast<float*>(at_); }
  uint8_t* bytes() const { return static_cast<uint8_t*>(at_); }

 private:
  Target target_;
  void* at_;
};

// For each bag how often it has a map's constant part, and whether it is empty. Rows out of range are not counted.
struct ConstantsTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 4;
  BagCall call;
  int64_t limit;
  float* weights;
  uint8_t* empty;

  int64_t blocks(const Target&) const { return (call.bags + kThreads - 1) / kThreads; }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int64_t b = grid.block * kThreads + grid.thread;
    if (b >= call.bags) return;
    const Bounds bag = bounds_of(call, b, false);
    float total = call.mode == BagMode::kMean ? float(bag.end > bag.begin) : float(bag.end - bag.begin);
    if (call.weights != nullptr) {
      total = 0.0f;
      for (int64_t i = bag.begin; i < bag.end; ++i)
        if (uint64_t(read_integer(call.ids, i)) < uint64_t(limit)) total = total + read(call.weights + i);
    }
    weights[b] = total;
    empty[b] = bag.begin == bag.end;
  }
};

// Adds rows [first, last) of the ids, which lie in `rows`, to the bags that have them. Sums lie in `sums` from one call
// to the next.
struct PoolTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 4;
  BagCall call;
  const float* rows;
  int64_t first, last, limit;
  float* sums;
  Output out;
  Groups groups;

  PoolTask(const BagCall& c, const float* from, int64_t begin, int64_t end, int64_t num_embeddings, float* kept,
           int64_t dim)
      : call(c),
        rows(from),
        first(begin),
        last(end),
        limit(num_embeddings),
        sums(kept),
        out(c.out, int(dim), c.half),
        groups(int(dim), 4) {}
  int64_t blocks(const Target&) const {
    // The first chunk looks at all bags, for empty and wrong ones; of others no more have ids than there are ids.
    const int64_t bags = first == 0 ? call.bags : smaller(call.bags, last - first);
    return smaller<int64_t>((bags + groups.count - 1) / groups.count, INT32_MAX);
  }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }

  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int group = grid.thread / groups.lanes, lane = grid.thread % groups.lanes;
    if (group >= groups.count) return;
    for (int64_t b = first_bag() + grid.block * groups.count + group; b < call.bags; b += grid.blocks * groups.count) {
      const Bounds bag = bounds_of(call, b, first == 0 && lane == 0);
      if (first > 0 && bag.begin >= last) return;  // and so do those behind it
      for (int j = lane * 4; j < out.dim; j += groups.lanes * 4) pool(b, bag, j);
    }
  }

 private:
  // The first bag that may have ids of the chunk, found by halves.
  EMBSTORE_HD int64_t first_bag() const {
    if (first == 0) return 0;
    if (call.offsets.at == nullptr) return first / (call.length < 1 ? 1 : call.length);
    int64_t low = 0, high = call.bags;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      const int64_t end = middle + 1 < call.num_offsets ? read_integer(call.offsets, middle + 1) : call.n;
      if (end <= first)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  EMBSTORE_HD void pool(int64_t b, const Bounds& bag, int j) const {
    const int64_t from = bag.begin > first ? bag.begin : first, to = bag.end < last ? bag.end : last;
    const bool is_empty = bag.begin == bag.end;
    if (is_empty ? first != 0 : from >= to) return;
    float sum[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[k] = from == bag.begin || j + k >= out.dim ? 0.0f : sums[b * out.dim + j + k];
    for (int64_t i = from; i < to; ++i) {
      if (uint64_t(read_integer(call.ids, i)) >= uint64_t(limit)) continue;
      const float weight = call.weights == nullptr ? 1.0f : read(call.weights + i);
      const Bytes<16> row =
          read_bytes<16>(reinterpret_cast<const uint8_t*>(rows + (i - first) * out.dim + j), out.dim % 4 == 0 ? 16 : 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float v = bits_float(row.words[k]);
        if (call.mode == BagMode::kMax)
          sum[k] = i == bag.begin ? v : max_nan(sum[k], v);
        else
          sum[k] = call.weights == nullptr ? sum[k] + v : sum[k] + v * weight;
      }
    }
    if (!is_empty && to < bag.end) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (j + k < out.dim) sums[b * out.dim + j + k] = sum[k];
      return;
    }
    if (call.mode == BagMode::kMean && bag.end - bag.begin > 1) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] = sum[k] / float(bag.end - bag.begin);
    }
    out.store<4>(b, j, sum);
  }
};

Integers behind(const Integers& ids, int64_t n) {
  return {static_cast<const uint8_t*>(ids.at) + n * (ids.wide ? 8 : 4), ids.wide};
}

}  // namespace

bool register_transform(const char* id, TransformFactory factory) {
  all()[id] = factory;
  return true;
}
TransformFactory find_transform(const std::string& id) {
  const auto at = all().find(id);
  return at == all().end() ? nullptr : at->second;
}

// What the method decodes, and two buffers for what maps make of it by turns.
class MappedKernel::Scratch {
 public:
  Scratch(const MappedKernel& kernel, int64_t n, const Target& target)
      : codes_(target, 4 * n * kernel.dims_.front()),
        first_(target, kernel.maps_.size() < 2 ? 0 : 4 * n * widest(kernel)),
        second_(target, kernel.maps_.size() < 3 ? 0 : 4 * n * widest(kernel)) {}
  float* codes() const { return codes_.floats(); }
  float* buffer(size_t k) const { return (k % 2 == 0 ? first_ : second_).floats(); }

 private:
  static int64_t widest(const MappedKernel& kernel) {
    return *std::max_element(kernel.dims_.begin() + 1, kernel.dims_.end() - 1);
  }
  Room codes_, first_, second_;
};

void MappedKernel::append(std::unique_ptr<Map> map, int64_t out_dim) {
  if (map == nullptr) return;
  maps_.push_back(std::move(map));
  dims_.push_back(out_dim);
}

int64_t MappedKernel::chunk_rows() const {
  constexpr int64_t kChunkBytes = 16 << 20;
  const int64_t widest = *std::max_element(dims_.begin(), dims_.end());
  return std::max<int64_t>(64, kChunkBytes / (4 * widest));
}

void MappedKernel::maps(MapCall call, Scratch& scratch, const Target& target) const {
  const MapCall last = call;
  call.codes = call.in;
  call.ids = {};
  call.empty = nullptr;
  call.half = false;
  for (size_t k = 0; k < maps_.size(); ++k) {
    if (k + 1 == maps_.size()) {
      call.out = last.out, call.half = last.half, call.ids = last.ids, call.limit = last.limit, call.empty = last.empty;
    } else {
      call.out = scratch.buffer(k);
    }
    maps_[k]->run(call, target);
    call.in = static_cast<const float*>(call.out);
  }
}

// A chunk of rows.
void MappedKernel::rows(const LookupCall& call, Scratch& scratch, const Target& target) const {
  LookupCall inner = call;
  inner.out = scratch.codes();
  inner.half = false;
  inner_->lookup(inner, target);
  MapCall map;
  map.in = scratch.codes();
  map.n = call.n;
  map.out = call.out;
  map.half = call.half;
  map.ids = call.ids;
  map.limit = num_embeddings_;
  maps(map, scratch, target);
}

void MappedKernel::lookup(const LookupCall& call, const Target& target) const {
  if (maps_.empty()) return inner_->lookup(call, target);
  if (call.n == 0) return;
  const int64_t chunk = std::min(chunk_rows(), call.n);
  Scratch scratch(*this, chunk, target);
  for (int64_t i = 0; i < call.n; i += chunk) {
    LookupCall part = call;
    if (call.ids.at != nullptr) part.ids = behind(call.ids, i);
    part.first = call.first + i * call.stride;
    part.n = std::min(chunk, call.n - i);
    part.position = call.position + i;
    part.out = static_cast<uint8_t*>(call.out) + i * dims_.back() * (call.half ? 2 : 4);
    rows(part, scratch, target);
  }
}

void MappedKernel::bag(const BagCall& call, const Target& target) const {
  if (maps_.empty()) return inner_->bag(call, target);
  if (call.bags == 0) return;
  linear_&& call.mode != BagMode::kMax ? bag_codes(call, target) : bag_rows(call, target);
}

// Codes are pooled, and their bags mapped.
void MappedKernel::bag_codes(const BagCall& call, const Target& target) const {
  const int64_t chunk = std::min(chunk_rows(), call.bags);
  Scratch scratch(*this, chunk, target);
  Room weights(target, 4 * chunk), empty(target, chunk);
  for (int64_t b = 0; b < call.bags; b += chunk) {
    BagCall part = call;
    part.position = call.position + b;
    part.bags = std::min(chunk, call.bags - b);
    part.out = scratch.codes();
    part.half = false;
    inner_->bag(part, target);
    launch(ConstantsTask{part, num_embeddings_, weights.floats(), empty.bytes()}, target);
    MapCall map;
    map.in = scratch.codes();
    map.n = part.bags;
    map.out = static_cast<uint8_t*>(call.out) + b * dims_.back() * (call.half ? 2 : 4);
    map.half = call.half;
    map.weights = weights.floats();
    map.empty = empty.bytes();
    maps(map, scratch, target);
  }
}

void MappedKernel::bag_rows(const BagCall& call, const Target& target) const {
  const int64_t chunk = std::max<int64_t>(1, std::min(chunk_rows(), call.n)), dim = dims_.back();
  const bool one = call.n <= chunk;
  Scratch scratch(*this, chunk, target);
  Room made(target, 4 * chunk * dim), kept(target, one || !call.half ? 0 : 4 * call.bags * dim);
  float* sums = call.half ? kept.floats() : static_cast<float*>(call.out);
  for (int64_t i = 0; i == 0 || i < call.n; i += chunk) {
    LookupCall part;
    part.ids = behind(call.ids, i);
    part.n = std::min(chunk, call.n - i);
    part.position = i;
    part.out = made.floats();
    part.fault = call.fault;
    if (part.n > 0) rows(part, scratch, target);
    launch(PoolTask(call, made.floats(), i, i + part.n, num_embeddings_, sums, dim), target);
  }
}

}  // namespace embstore::cuda
