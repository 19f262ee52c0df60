// Lookup and bag of every method whose rows decode column by column: from rows arrays, from rows of shared arrays found
// by an address computed from the id, or from wherever other bytes of the table say. A decode functor F is a plain
// struct that travels to the device by value, with EMBSTORE_HD functions:
//   int dim;                                       values per row
//   Place place(int64_t id) const;                     where the row lies, id in range; any small struct
//   static constexpr int kColumns;                     columns that a lane of a bag decodes at a time: as many as make
//   a
//                                                      load of 16 bytes, 4 to 16
//   template <int V> Raw fetch(const Place&, int j) const;
//       loads what columns [j, j + V) are decoded from, j a multiple of V; V is 4, 8 or kColumns. Several rows are
//       fetched before the first is decoded, which keeps their loads in flight
//   template <int V> void decode(const Raw&, const Place&, int j, float (&v)[V]) const;
//       the values; of columns beyond the row any, without reading outside of arrays and their padding
//   what NoTable has, or its own of the same names
//   static constexpr int kInFlight, if the registers for 4 rows of a lookup or 4 to 8 of a bag are not there: how many
// A functor that would rather give one value at a time derives from ByColumn.
// Each value has the bits that csrc/skeletons/row_decode.h gives it: rows are added in the order of ids, each operation
// rounded.
#pragma once
#include <array>
#include <type_traits>

#include "cuda/core/bytes.cuh"
#include "cuda/core/launch.cuh"

namespace embstore::cuda {

// A table that a block copies to its own memory before it decodes: fill writes it, in turns of `threads`, and bind
// tells a functor where it lies.
struct NoTable {
  int64_t table_bytes() const { return 0; }
  EMBSTORE_HD void fill(uint8_t*, int, int) const {}
  EMBSTORE_HD void bind(const uint8_t*) {}
};

// F: float one(const Place&, int j) const, for j < dim.
template <class F>
struct ByColumn : NoTable {
  static constexpr int kColumns = 4;
  struct Nothing {};
  template <int V, class Place>
  EMBSTORE_HD Nothing fetch(const Place&, int) const {
    return {};
  }
  template <int V, class Place>
  EMBSTORE_HD void decode(const Nothing&, const Place& at, int j, float (&v)[V]) const {
    const F& self = static_cast<const F&>(*this);
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = j + k < self.dim ? self.one(at, j + k) : 0.0f;
  }
};

// Which of the rows kept on the device row id is, -1 for none. For each 32 rows there is a word: a bit for each that is
// kept, and above them how many are kept before.
EMBSTORE_HD int64_t slot_of(const uint64_t* slots, int64_t id) {
  const uint64_t word = read(reinterpret_cast<const unsigned long long*>(slots) + (id >> 5));
  const auto kept = uint32_t(word), bit = 1u << (id & 31);
  return (kept & bit) == 0 ? -1 : int64_t(word >> 32) + count_ones(kept & (bit - 1));
}

// The rows arrays a functor reads; a Place is where one row lies in each.
template <int Count>
struct RowArrays {
  struct Place {
    const uint8_t* at[Count];
    EMBSTORE_HD const uint8_t* operator[](int k) const { return at[k]; }
  };
  const uint8_t* data[Count];
  const uint8_t* hot[Count];
  int64_t row_bytes[Count];
  int align[Count];
  const uint64_t* slots = nullptr;

  RowArrays(const Table& table, const std::array<const char*, Count>& names) {
    for (int k = 0; k < Count; ++k) {
      const Rows& rows = table.rows.at(names[size_t(k)]);
      rows.by_place = true;
      set(k, rows.data, rows.row_bytes);
      hot[k] = rows.hot;
      slots = rows.slots;
    }
  }
  // Rows of other memory, which is on the device as it is.
  void set(int k, const uint8_t* from, int64_t bytes) {
    data[k] = hot[k] = from;
    row_bytes[k] = bytes;
    align[k] = alignment(from, bytes);
  }
  EMBSTORE_HD Place place(int64_t id) const {
    Place at;
    const int64_t slot = slots == nullptr ? -1 : slot_of(slots, id);
#pragma unroll
    for (int k = 0; k < Count; ++k) at.at[k] = slot < 0 ? data[k] + id * row_bytes[k] : hot[k] + slot * row_bytes[k];
    return at;
  }
};

inline constexpr int kThreads = 256;

// Rows that a lane fetches before it decodes the first: `most`, or what F asks for.
template <class F, class = void>
struct RowsInFlight {
  static constexpr int of(int most) { return most; }
};
template <class F>
struct RowsInFlight<F, std::void_t<decltype(F::kInFlight)>> {
  static constexpr int of(int most) { return smaller(most, F::kInFlight); }
};

// A block is cut into groups of as many lanes as a row has pieces of V columns; a row of more pieces than threads is
// walked in steps.
struct Groups {
  int lanes, count;
  Groups(int dim, int columns) {
    lanes = smaller((dim + columns - 1) / columns, kThreads);
    count = kThreads / lanes;
  }
};

// Blocks for `tiles` of work. One that first copies a large table to its own memory takes many tiles.
inline int64_t blocks_for(int64_t tiles, int64_t table_bytes, const Target& target) {
  if (table_bytes <= 4096) return smaller<int64_t>(tiles, INT32_MAX);
  const int64_t at_once = (200 << 10) / table_bytes;
  return smaller<int64_t>(tiles, int64_t(target.processors) * (at_once < 1 ? 1 : at_once > 8 ? 8 : at_once));
}

// Where rows go: floats, or half floats.
struct Output {
  void* at;
  int dim;
  bool half, aligned;

  Output(void* out, int row, bool halves)
      : at(out), dim(row), half(halves), aligned(row % 4 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0) {}

  // Columns [j, j + V) of row i; those beyond the row are dropped.
  template <int V>
  EMBSTORE_HD void store(int64_t i, int j, const float (&v)[V]) const {
    if (aligned) {
#pragma unroll
      for (int k = 0; k < V; k += 4)
        if (j + k < dim) store4(i * dim + j + k, v[k], v[k + 1], v[k + 2], v[k + 3]);
      return;
    }
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (j + k < dim) store_one(i, j + k, v[k]);
  }

  EMBSTORE_HD void store_one(int64_t i, int j, float v) const {
    if (half)
      static_cast<uint16_t*>(at)[i * dim + j] = narrow(v);
    else
      static_cast<float*>(at)[i * dim + j] = v;
  }

 private:
  // Streaming stores: what is written is not read again here, and rows read may still be wanted.
  EMBSTORE_HD void store4(int64_t first, float a, float b, float c, float d) const {
    if (half) {
      const uint32_t low = uint32_t(narrow(a)) | uint32_t(narrow(b)) << 16;
      const uint32_t high = uint32_t(narrow(c)) | uint32_t(narrow(d)) << 16;
#if defined(__CUDA_ARCH__)
      __stcs(reinterpret_cast<uint2*>(static_cast<uint16_t*>(at) + first), make_uint2(low, high));
#else
      const uint32_t both[2] = {low, high};
      std::memcpy(static_cast<uint16_t*>(at) + first, both, 8);
#endif
      return;
    }
#if defined(__CUDA_ARCH__)
    __stcs(reinterpret_cast<float4*>(static_cast<float*>(at) + first), make_float4(a, b, c, d));
#else
    const float four[4] = {a, b, c, d};
    std::memcpy(static_cast<float*>(at) + first, four, 16);
#endif
  }
};

template <class F>
struct LookupTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 3;
  static constexpr int kColumns = 4;  // 16 bytes of floats to store
  static constexpr int kInFlight = RowsInFlight<F>::of(4);
  F f;
  LookupCall call;
  Output out;
  Groups groups;
  int64_t limit, tiles;

  LookupTask(const F& functor, int64_t num_embeddings, const LookupCall& c)
      : f(functor), call(c), out(c.out, functor.dim, c.half), groups(functor.dim, kColumns), limit(num_embeddings) {
    const int64_t rows = int64_t(groups.count) * kInFlight;
    tiles = (call.n + rows - 1) / rows;
  }
  int64_t blocks(const Target& target) const { return blocks_for(tiles, f.table_bytes(), target); }
  int64_t shared_bytes() const { return f.table_bytes(); }
  EMBSTORE_HD int phases(const Grid&) const { return 2; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    if (p == 0) return f.fill(shared, grid.thread, kThreads);
    const int group = grid.thread / groups.lanes, lane = grid.thread % groups.lanes;
    if (group >= groups.count) return;
    F g = f;
    g.bind(shared);
    for (int64_t tile = grid.block; tile < tiles; tile += grid.blocks)
      rows(g, tile * groups.count * kInFlight + group, lane);
  }

 private:
  EMBSTORE_HD void rows(const F& g, int64_t first, int lane) const {
    using Place = decltype(g.place(0));
    Place places[kInFlight];
    bool good[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t i = first + int64_t(u) * groups.count;
      good[u] = false;
      if (i >= call.n) continue;
      const int64_t id = id_at(call, i);
      good[u] = uint64_t(id) < uint64_t(limit);
      if (good[u])
        places[u] = g.place(id);
      else if (lane == 0)
        report(call.fault, FaultKind::kId, call.position + i, id);
    }
    for (int j = lane * kColumns; j < g.dim; j += groups.lanes * kColumns) {
      using Raw = decltype(g.template fetch<kColumns>(places[0], j));
      Raw raw[kInFlight];
#pragma unroll
      for (int u = 0; u < kInFlight; ++u)
        if (good[u]) raw[u] = g.template fetch<kColumns>(places[u], j);
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        if (!good[u]) continue;
        float v[kColumns];
        g.template decode<kColumns>(raw[u], places[u], j, v);
        out.template store<kColumns>(first + int64_t(u) * groups.count, j, v);
      }
    }
  }
};

// The first id of bag b, and the one after its last; a wrong offset is reported and gives an empty bag.
struct Bounds {
  int64_t begin, end;
};
EMBSTORE_HD Bounds bounds_of(const BagCall& call, int64_t b, bool tell) {
  const int64_t at = call.position + b;
  if (call.offsets.at == nullptr) return {at * call.length, (at + 1) * call.length};
  const int64_t begin = read_integer(call.offsets, at);
  const int64_t end = at + 1 < call.num_offsets ? read_integer(call.offsets, at + 1) : call.n;
  if (begin >= 0 && begin <= end && end <= call.n && (at > 0 || begin == 0)) return {begin, end};
  if (tell) report(call.fault, FaultKind::kOffset, at, begin);
  return {0, 0};
}

// A group has one bag, or as many columns of it as it has lanes for.
template <class F>
struct BagTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 2;
  static constexpr int kColumns = F::kColumns;
  static constexpr int kInFlight = RowsInFlight<F>::of(kColumns > 4 ? 4 : 8);
  F f;
  BagCall call;
  Output out;
  Groups groups;
  int chunks;
  int64_t limit, tiles;

  BagTask(const F& functor, int64_t num_embeddings, const BagCall& c)
      : f(functor), call(c), out(c.out, functor.dim, c.half), groups(functor.dim, kColumns), limit(num_embeddings) {
    const int columns = groups.lanes * kColumns;
    chunks = (f.dim + columns - 1) / columns;
    tiles = (call.bags * chunks + groups.count - 1) / groups.count;
  }
  int64_t blocks(const Target& target) const { return blocks_for(tiles, f.table_bytes(), target); }
  int64_t shared_bytes() const { return f.table_bytes(); }
  EMBSTORE_HD int phases(const Grid&) const { return 2; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    if (p == 0) return f.fill(shared, grid.thread, kThreads);
    const int group = grid.thread / groups.lanes, lane = grid.thread % groups.lanes;
    if (group >= groups.count) return;
    F g = f;
    g.bind(shared);
    for (int64_t tile = grid.block; tile < tiles; tile += grid.blocks) {
      const int64_t at = tile * groups.count + group, b = chunks == 1 ? at : at / chunks;
      if (b >= call.bags) return;
      const int j = (int(at - b * chunks) * groups.lanes + lane) * kColumns;
      if (j < g.dim) pool(g, b, j);
    }
  }

 private:
  EMBSTORE_HD void pool(const F& g, int64_t b, int j) const {
    const Bounds bag = bounds_of(call, b, j == 0);
    float sums[kColumns];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) sums[k] = 0.0f;
    for (int64_t i = bag.begin; i < bag.end; i += kInFlight) batch(g, bag, i, j, sums);
    const int64_t length = bag.end - bag.begin;
    if (call.mode == BagMode::kMean && length > 1) {
#pragma unroll
      for (int k = 0; k < kColumns; ++k) sums[k] = sums[k] / float(length);
    }
    out.template store<kColumns>(b, j, sums);
  }

  EMBSTORE_HD void batch(const F& g, const Bounds& bag, int64_t i, int j, float (&sums)[kColumns]) const {
    using Place = decltype(g.place(0));
    using Raw = decltype(g.template fetch<kColumns>(Place{}, j));
    Place places[kInFlight];
    Raw raw[kInFlight];
    float weights[kInFlight];
    bool good[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      good[u] = false;
      if (i + u >= bag.end) continue;
      const int64_t id = call.ids.at == nullptr ? i + u : read_integer(call.ids, i + u);
      good[u] = uint64_t(id) < uint64_t(limit);
      weights[u] = call.weights == nullptr ? 1.0f : read(call.weights + i + u);
      if (good[u])
        places[u] = g.place(id);
      else if (j == 0)
        report(call.fault, FaultKind::kId, i + u, id);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u)
      if (good[u]) raw[u] = g.template fetch<kColumns>(places[u], j);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (!good[u]) continue;
      float v[kColumns];
      g.template decode<kColumns>(raw[u], places[u], j, v);
      if (call.mode == BagMode::kMax) {
        const bool first = i + u == bag.begin;
#pragma unroll
        for (int k = 0; k < kColumns; ++k) sums[k] = first ? v[k] : max_nan(sums[k], v[k]);
      } else if (call.weights != nullptr) {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) sums[k] = sums[k] + v[k] * weights[u];
      } else {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) sums[k] = sums[k] + v[k];
      }
    }
  }
};

template <class F>
class RowKernel : public Kernel {
 public:
  RowKernel(const F& f, int64_t num_embeddings) : f_(f), num_embeddings_(num_embeddings) {}
  void lookup(const LookupCall& call, const Target& target) const override {
    launch(LookupTask<F>(f_, num_embeddings_, call), target);
  }
  void bag(const BagCall& call, const Target& target) const override {
    launch(BagTask<F>(f_, num_embeddings_, call), target);
  }

 protected:
  F f_;
  int64_t num_embeddings_;
};

template <class F>
std::unique_ptr<Kernel> row_kernel_of(const F& f, const Table& table) {
  return std::make_unique<RowKernel<F>>(f, table.num_embeddings);
}
template <class F>
std::unique_ptr<Kernel> row_kernel(const Table& table) {
  return row_kernel_of(F(table), table);
}

}  // namespace embstore::cuda
