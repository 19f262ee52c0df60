// float32, float16, bfloat16 encoded: each value on its own.
#pragma once
#include "cuda/skeletons/encode.cuh"

namespace embstore::cuda {

// T: Stored, encode(float) -> Stored, held(float, Stored): whether a finite value stayed one.
template <class T>
struct FloatEncodeTask {
  static constexpr int kThreads = 256, kBlocks = 4, kValues = 4;
  const float* rows;
  typename T::Stored* out;
  int64_t values, dim;
  bool keep;
  Fault* fault;

  explicit FloatEncodeTask(const EncodeCall& c)
      : rows(c.rows),
        out(reinterpret_cast<typename T::Stored*>(c.array("values"))),
        values(c.n * c.dim),
        dim(c.dim),
        keep(c.keep),
        fault(c.fault) {}
  int64_t blocks(const Target&) const {
    constexpr int64_t per = kThreads * kValues;
    return smaller<int64_t>((values + per - 1) / per, INT32_MAX);
  }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    for (int64_t i = grid.block * kThreads + grid.thread; i < values; i += grid.blocks * kThreads) {
      const float x = read(rows + i);
      const auto stored = T::encode(x);
      out[i] = stored;
      if (taint_of(x, i, keep, fault) == 0.0f && !T::held(stored)) report(fault, FaultKind::kNotHeld, i / dim * dim, 0);
    }
  }
};

template <class T>
void float_encode(const EncodeCall& call, const Target& target) {
  launch(FloatEncodeTask<T>(call), target);
}

}  // namespace embstore::cuda
