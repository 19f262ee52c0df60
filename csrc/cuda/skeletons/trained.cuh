// Rows of methods in training, forward and backward. A functor F is a plain struct that travels to the device by value,
// made from a TrainedCall, with EMBSTORE_HD functions:
//   int dim;                                       values per row
//   Place place(int64_t id) const;                 where the row lies, id in range; any small struct
//   void rows(const Place&, int j, int count, float (&v)[4]) const;         columns [j, j + count), j a multiple of 4
//   void add(const Place&, int j, int count, const float (&g)[4]) const;    their gradient to that of the weights
// A row is of as many lanes as it has pieces of 4 columns, up to a block. Values have the bits of torch's own chain of
// operations (embstore/nn/_rows.py). Gradients are added by atomics: on a device rows that share weights add theirs in
// any order, on the host in the order of ids.
#pragma once
#include "cuda/core/trained.h"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {

// Whether runs of 4 floats at multiples of 4 may be read and added at once.
inline bool aligned_to_four(const void* at, int64_t width) {
  return width % 4 == 0 && reinterpret_cast<uintptr_t>(at) % 16 == 0;
}

// Up to 4 values; those beyond `count` are 0. Nothing behind them is read.
EMBSTORE_HD void load_four(const float* at, int count, bool wide, float (&v)[4]) {
#if defined(__CUDA_ARCH__)
  if (wide) {
    const float4 four = __ldg(reinterpret_cast<const float4*>(at));
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    return;
  }
#endif
#pragma unroll
  for (int k = 0; k < 4; ++k) v[k] = k < count ? read(at + k) : 0.0f;
}

EMBSTORE_HD void add_one(float* at, float value) {
#if defined(__CUDA_ARCH__)
  atomicAdd(at, value);
#else
  *at = *at + value;
#endif
}

EMBSTORE_HD void add_four(float* at, int count, bool wide, const float (&v)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (wide) {
    atomicAdd(reinterpret_cast<float4*>(at), make_float4(v[0], v[1], v[2], v[3]));
    return;
  }
#endif
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (k < count) add_one(at + k, v[k]);
}

// Without a word to the host that would have to be waited for there is no other way to refuse an id.
EMBSTORE_HD void stop() {
#if defined(__CUDA_ARCH__)
  __trap();
#endif
}

template <class F, bool Backward>
struct TrainedTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = Backward ? 3 : 4, kColumns = 4;
  F f;
  const int64_t* ids;
  const float* given;  // the gradient of rows
  int64_t n, limit, tiles;
  Output out;
  Groups groups;
  bool wide;

  TrainedTask(const F& functor, const TrainedCall& call)
      : f(functor),
        ids(call.ids),
        given(call.rows),
        n(call.n),
        limit(call.num_embeddings),
        out(call.rows, functor.dim, false),
        groups(functor.dim, kColumns),
        wide(aligned_to_four(call.rows, functor.dim)) {
    tiles = (n + groups.count - 1) / groups.count;
  }
  int64_t blocks(const Target& target) const { return blocks_for(tiles, 0, target); }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }

  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int group = grid.thread / groups.lanes, lane = grid.thread % groups.lanes;
    if (group >= groups.count) return;
    for (int64_t tile = grid.block; tile < tiles; tile += grid.blocks) {
      const int64_t i = tile * groups.count + group;
      if (i >= n) return;
      const int64_t id = read_integer({ids, true}, i);
      if (uint64_t(id) >= uint64_t(limit)) return stop();
      const auto place = f.place(id);
      for (int j = lane * kColumns; j < f.dim; j += groups.lanes * kColumns) {
        const int count = smaller(kColumns, f.dim - j);
        float v[kColumns];
        if constexpr (Backward) {
          load_four(given + i * f.dim + j, count, wide, v);
          f.add(place, j, count, v);
        } else {
          f.rows(place, j, count, v);
          out.template store<kColumns>(i, j, v);
        }
      }
    }
  }
};

template <class F>
void trained(const TrainedCall& call, const Target& target) {
  if (call.dim < 1 || call.dim > INT32_MAX / 64) throw std::invalid_argument("rows are too wide for a device");
  const F f(call);
  if (call.backward)
    launch(TrainedTask<F, true>(f, call), target);
  else
    launch(TrainedTask<F, false>(f, call), target);
}

}  // namespace embstore::cuda
