// Encoding in blocks of a row that share a scale: 16 lanes have one block, as the vectors of csrc/methods do, and a
// lane has every 16th of its values. What lanes tell each other lies in the memory of their thread block, between
// phases. An encoder E is a plain struct that travels to the device by value, with
//   int dim; int64_t block_size;
//   struct Shared;                                       what the lanes of a block share; of any lane count
//   EMBSTORE_HD int phases() const;
//   EMBSTORE_HD void phase(int p, const Block&, int lane, Shared&) const;
#pragma once
#include "cuda/core/bytes.cuh"
#include "cuda/core/encode.h"
#include "cuda/core/launch.cuh"
#include "methods/_affine_steps.h"  // compiled into this namespace: EMBSTORE_ISA is cuda here

namespace embstore::cuda {

// Values x[0 .. n) of a row, from column `first` on.
struct Block {
  const float* x;
  int64_t row, index;
  int first, n;
};

// Reports what is no finite number; returns 0, or NaN for such a value.
EMBSTORE_HD float taint_of(float x, int64_t position, bool keep, Fault* fault) {
  const float taint = x * 0.0f;
  if (taint != 0.0f && !keep) report(fault, FaultKind::kNotFinite, position, 0);
  return taint;
}

template <class E>
struct EncodeTask {
  static constexpr int kThreads = 256, kBlocks = 2, kGroups = kThreads / kLanes;
  E e;
  const float* rows;
  int64_t per_row, items;

  EncodeTask(const E& encoder, const EncodeCall& call)
      : e(encoder), rows(call.rows), per_row((call.dim + e.block_size - 1) / e.block_size), items(call.n * per_row) {}
  int64_t blocks(const Target&) const {
    const int64_t found = (items + kGroups - 1) / kGroups;
    if (found > INT32_MAX) throw std::invalid_argument("there are too many rows to encode at once");
    return found;
  }
  int64_t shared_bytes() const { return int64_t(sizeof(typename E::Shared)) * kGroups; }
  EMBSTORE_HD int phases(const Grid&) const { return e.phases(); }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    const int group = grid.thread / kLanes;
    const int64_t item = grid.block * kGroups + group;
    if (item >= items) return;
    Block block;
    block.row = per_row == 1 ? item : item / per_row;
    block.index = item - block.row * per_row;
    block.first = int(block.index * e.block_size);
    block.n = int(smaller<int64_t>(e.block_size, e.dim - block.first));
    block.x = rows + block.row * e.dim + block.first;
    e.phase(p, block, grid.thread % kLanes, reinterpret_cast<typename E::Shared*>(shared)[group]);
  }
};

template <class E>
void encode(const EncodeCall& call, const Target& target) {
  launch(EncodeTask<E>(E(call), call), target);
}

// Scales and offsets as they are stored; what is too large for float16 is reported.
struct StepWriter {
  uint8_t* at;
  int64_t row_bytes;
  bool half;
  Fault* fault;

  EMBSTORE_HD void put(const Block& block, int64_t index, int64_t first_value, float value) const {
    uint8_t* row = at + block.row * row_bytes;
    float stored = value;
    if (half) {
      const uint16_t bits = float_to_half(value);
      reinterpret_cast<uint16_t*>(row)[index] = bits;
      stored = half_to_float(bits);
    } else {
      reinterpret_cast<float*>(row)[index] = value;
    }
    if (stored - stored != 0.0f && stored == stored) report(fault, FaultKind::kNotHeld, first_value, 0);
  }
};

}  // namespace embstore::cuda
