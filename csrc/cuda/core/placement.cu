#include "cuda/core/placement.h"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

constexpr int kEach = 8;  // ids of a thread, where there are enough for every processor

int64_t blocks_of(int64_t n, const Target& target) {
  const int64_t tiles = (n + kThreads * kEach - 1) / (kThreads * kEach);
  return smaller<int64_t>(tiles, int64_t(target.processors) * 8);
}

EMBSTORE_HD void add_one(uint32_t* at) {
#if defined(__CUDA_ARCH__)
  atomicAdd(at, 1u);
#else
  ++*at;
#endif
}
EMBSTORE_HD void add(uint64_t* at, uint64_t more) {
#if defined(__CUDA_ARCH__)
  atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(more));
#else
  *at += more;
#endif
}

// Threads count for themselves; one of a block adds their counts up, so that blocks seldom wait for each other.
struct CountTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 4;
  CountCall call;

  int64_t blocks(const Target& target) const { return blocks_of(call.n, target); }
  int64_t shared_bytes() const { return 2 * kThreads * 4; }
  EMBSTORE_HD int phases(const Grid&) const { return 2; }
  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* own = reinterpret_cast<uint32_t*>(shared);
    if (p == 0) {
      uint32_t kept = 0, all = 0;
      for (int64_t i = grid.block * kThreads + grid.thread; i < call.n; i += grid.blocks * kThreads) {
        const int64_t id = read_integer(call.ids, i);
        if (uint64_t(id) >= uint64_t(call.num_embeddings)) continue;
        ++all;
        kept += slot_of(call.slots, id) >= 0 ? 1 : 0;
        if (call.seen != nullptr) add_one(call.seen + id);
      }
      own[grid.thread] = kept;
      own[kThreads + grid.thread] = all - kept;
      return;
    }
    if (grid.thread >= 2) return;
    uint64_t total = 0;
    for (int t = 0; t < kThreads; ++t) total += own[grid.thread * kThreads + t];
    if (total != 0) add(call.counts + grid.thread, total);
  }
};

struct RouteTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 4;
  RouteCall call;

  int64_t blocks(const Target& target) const { return blocks_of(call.n, target); }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    for (int64_t i = grid.block * kThreads + grid.thread; i < call.n; i += grid.blocks * kThreads) {
      const int64_t id = read_integer(call.ids, i);
      call.own[i] = id >= call.first && id < call.last ? id : -1;
      if (call.fault != nullptr && uint64_t(id) >= uint64_t(call.num_embeddings))
        report(call.fault, FaultKind::kId, i, id);
    }
  }
};

// A group of lanes has a row, and a lane items of 16 bytes of it, or of 2 where rows are of odd sizes.
template <class Item>
struct SelectTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 4;
  SelectCall call;
  int64_t items;
  Groups groups;

  explicit SelectTask(const SelectCall& c)
      : call(c), items(c.row_bytes / int64_t(sizeof(Item))), groups(int(smaller<int64_t>(items, kThreads)), 1) {}
  int64_t blocks(const Target&) const {
    return smaller<int64_t>((call.n + groups.count - 1) / groups.count, INT32_MAX);
  }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int group = grid.thread / groups.lanes, lane = grid.thread % groups.lanes;
    if (group >= groups.count) return;
    for (int64_t i = grid.block * groups.count + group; i < call.n; i += grid.blocks * groups.count) {
      int64_t place = i;
      if (call.places != nullptr) {
        place = read_integer({call.places, true}, i);
      } else {
        const int64_t id = read_integer(call.ids, i);
        if (id < call.first || id >= call.last) continue;
      }
      const auto* from = reinterpret_cast<const Item*>(call.rows + i * call.row_bytes);
      auto* to = reinterpret_cast<Item*>(call.out + place * call.row_bytes);
      for (int64_t k = lane; k < items; k += groups.lanes) to[k] = from[k];
    }
  }
};

}  // namespace

void count_ids(const CountCall& call, const Target& target) { launch(CountTask{call}, target); }

void route_ids(const RouteCall& call, const Target& target) { launch(RouteTask{call}, target); }

void select_rows(const SelectCall& call, const Target& target) {
  if (call.n == 0) return;
  if (alignment(call.rows, call.row_bytes) == 16 && alignment(call.out, call.row_bytes) == 16)
    launch(SelectTask<uint4>(call), target);
  else
    launch(SelectTask<uint16_t>(call), target);
}

}  // namespace embstore::cuda
