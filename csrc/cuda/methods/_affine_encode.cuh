// int16, int8, int4, int2 encoded: the arithmetic of csrc/methods/_affine_steps.h, a lane of its vectors a thread.
#pragma once
#include <stdexcept>

#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/encode.cuh"

namespace embstore::cuda {

// Bits of a row are whole bytes at the edges of blocks, so that no two lanes write to one.
template <int Bits, bool Symmetric>
struct AffineEncoder {
  using Steps = AffineSteps<Bits, Symmetric>;
  struct Shared {
    float low[kLanes], high[kLanes], taint[kLanes];
    BlockSums<float> sums[kLanes];
    StepSearch<Bits, Symmetric> search;
  };
  int dim;
  int64_t block_size;
  bool given, least_squares, keep;
  Step step;  // of all rows, where it is given
  uint8_t* codes;
  int64_t code_bytes;
  StepWriter steps;
  Fault* fault;

  explicit AffineEncoder(const EncodeCall& c) : dim(int(c.dim)), keep(c.keep), codes(c.array("codes")), fault(c.fault) {
    const char* name = Symmetric ? "scale" : "affine";
    given = c.shared.count(name) != 0;
    code_bytes = c.out.at("codes").row_bytes;
    block_size = given ? c.dim : smaller<int64_t>(c.params.integer("block_size", c.dim), c.dim);
    if (block_size < 1 || (block_size < dim && block_size * Bits % 8 != 0))
      throw std::invalid_argument("blocks must be whole bytes of codes");
    least_squares = !given && c.params.is("range", "lse");
    if (given) {
      const float* one = host_items<float>(c, name, Symmetric ? 1 : 2);
      step = {one[0], Symmetric ? 0.0f : one[1]};
      steps = {nullptr, 0, false, fault};
    } else {
      steps = {c.array(name), c.out.at(name).row_bytes, c.params.is("scale_dtype", "float16"), fault};
    }
  }

  // Lanes look at their values; one merges what they found; then for every step of the search lanes measure it and one
  // takes the next; last come the codes.
  EMBSTORE_HD int phases() const { return 3 + (least_squares ? 2 * Steps::kShrinks * (Steps::kRounds + 1) : 0); }
  EMBSTORE_HD void phase(int p, const Block& b, int lane, Shared& s) const {
    if (p == 0) return look(b, lane, s);
    if (p == 1) return lane == 0 ? begin(b, s) : void();
    if (p == phases() - 1) return write(b, lane, s);
    if (!s.search.running) return;
    if (p % 2 == 0)
      measure(b, lane, s);
    else if (lane == 0)
      s.search.measured(whole(s), b.n);
  }

 private:
  EMBSTORE_HD int64_t position(const Block& b, int j) const { return b.row * dim + b.first + j; }

  EMBSTORE_HD void look(const Block& b, int lane, Shared& s) const {
    float low = b.x[0], high = low, taint = 0.0f;
    for (int j = lane; j < b.n; j += kLanes) {
      const float x = b.x[j];
      low = x < low ? x : low;
      high = x > high ? x : high;
      taint = taint + taint_of(x, position(b, j), keep, fault);
    }
    s.low[lane] = low, s.high[lane] = high, s.taint[lane] = taint;
  }

  EMBSTORE_HD void begin(const Block& b, Shared& s) const {
    float low = b.x[0], high = low, taint = 0.0f;
    for (int l = 0; l < kLanes; ++l) {
      low = s.low[l] < low ? s.low[l] : low;
      high = s.high[l] > high ? s.high[l] : high;
      taint = taint + s.taint[l];
    }
    StepSearch<Bits, Symmetric> search;
    if (taint != 0.0f) {  // a NaN or inf anywhere: the whole block decodes to NaN
      const float nan = bits_to_float(0x7fc00000);
      search.best = {nan, nan};
    } else if (!given) {
      search.begin(low, high, steps.half, least_squares);
    }
    if (given) search.best = step;
    s.search = search;
  }

  EMBSTORE_HD void measure(const Block& b, int lane, Shared& s) const {
    const Step now = s.search.now;
    const float inverse = 1.0f / now.scale, low = s.search.low;
    BlockSums<float> sums;
    for (int j = lane; j < (b.n + kLanes - 1) / kLanes * kLanes; j += kLanes)
      Steps::measure(b.x[j < b.n ? j : 0], j < b.n ? 1.0f : 0.0f, low, now.scale, now.offset, inverse, sums);
    s.sums[lane] = sums;
  }

  EMBSTORE_HD static BlockSums<float> whole(const Shared& s) {
    return {sum(s, &BlockSums<float>::error), sum(s, &BlockSums<float>::sc), sum(s, &BlockSums<float>::scc),
            sum(s, &BlockSums<float>::sy), sum(s, &BlockSums<float>::syc)};
  }
  EMBSTORE_HD static float sum(const Shared& s, float BlockSums<float>::* of) {
    float lanes[kLanes];
#pragma unroll
    for (int l = 0; l < kLanes; ++l) lanes[l] = s.sums[l].*of;
    return sum_lanes(lanes);
  }

  EMBSTORE_HD void write(const Block& b, int lane, Shared& s) const {
    const Step found = s.search.best;
    const float inverse = Steps::inverse(found.scale);
    uint8_t* row = codes + b.row * code_bytes;
    if constexpr (Bits >= 8) {
      for (int j = lane; j < b.n; j += kLanes) {
        const int c = code(b, j, found, inverse);
        if (Bits == 16)
          reinterpret_cast<uint16_t*>(row)[b.first + j] = uint16_t(c);
        else
          row[b.first + j] = uint8_t(c);
      }
    } else {
      constexpr int kPer = 8 / Bits, kMiddle = Symmetric ? 1 << (Bits - 1) : 0;
      for (int j = lane * kPer; j < b.n; j += kLanes * kPer) {
        int byte = 0;
#pragma unroll
        for (int k = 0; k < kPer; ++k)
          if (j + k < b.n) byte |= (code(b, j + k, found, inverse) + kMiddle) << (k * Bits);
        row[(b.first + j) / kPer] = uint8_t(byte);
      }
    }
    if (given || lane != 0) return;
    const int64_t first = b.row * dim;
    steps.put(b, Symmetric ? b.index : 2 * b.index, first, found.scale);
    if (!Symmetric) steps.put(b, 2 * b.index + 1, first, found.offset);
  }

  EMBSTORE_HD int code(const Block& b, int j, Step found, float inverse) const {
    const float x = b.x[j];
    if (given) {
      const bool held = Symmetric ? !Steps::beyond(x, found.scale) : within(x);
      if (!held) report(fault, FaultKind::kNotHeld, b.row * dim, 0);
      if (!held && Symmetric) return Steps::kBottom - 1;
    }
    return int(Steps::quantize(x, found.offset, inverse));
  }
  // In float64, as embstore/methods/_affine.py has the bounds.
  EMBSTORE_HD bool within(float x) const {
    const double low = double(step.offset) - 0.5 * double(step.scale);
    const double high = double(step.offset) + (double(Steps::kTop) + 0.5) * double(step.scale);
    return double(x) >= low && double(x) <= high;
  }
};

template <int Bits>
void affine_encode(const EncodeCall& call, const Target& target) {
  if (call.params.integer("symmetric", 0) != 0)
    encode<AffineEncoder<Bits, true>>(call, target);
  else
    encode<AffineEncoder<Bits, false>>(call, target);
}

}  // namespace embstore::cuda
