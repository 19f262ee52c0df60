// dynamic8 and nf4 encoded, with scales as floats: the arithmetic of csrc/methods/_codebook.h, blocks by 16 lanes.
#pragma once
#include <stdexcept>

#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/encode.cuh"
#include "methods/_codebook_code.h"

namespace embstore::cuda {

template <int Bits>
struct CodebookEncoder {
  struct Shared {
    float top[kLanes], taint[kLanes];
    float scale;
  };
  int dim;
  int64_t block_size;
  bool keep;
  uint8_t* codes;
  int64_t code_bytes;
  StepWriter scales;
  const float* midpoints;
  Fault* fault;

  explicit CodebookEncoder(const EncodeCall& c)
      : dim(int(c.dim)),
        block_size(smaller<int64_t>(c.params.integer("block_size", c.dim), c.dim)),
        keep(c.keep),
        codes(c.array("codes")),
        code_bytes(c.out.at("codes").row_bytes),
        scales{c.array("scale"), c.out.at("scale").row_bytes, c.params.is("scale_dtype", "float16"), c.fault},
        midpoints(shared_items<float>(c, "midpoints", (1 << Bits) - 1)),
        fault(c.fault) {
    if (!c.params.is("scale_dtype", "float16") && !c.params.is("scale_dtype", "float32"))
      throw std::invalid_argument("scales must be floats");
    if (block_size < 1 || (block_size < dim && block_size * Bits % 8 != 0))
      throw std::invalid_argument("blocks must be whole bytes of codes");
  }

  EMBSTORE_HD int phases() const { return 3; }
  EMBSTORE_HD void phase(int p, const Block& b, int lane, Shared& s) const {
    if (p == 0) return look(b, lane, s);
    if (p == 1) return lane == 0 ? scale(b, s) : void();
    uint8_t* row = codes + b.row * code_bytes;
    constexpr int kPer = 8 / Bits;
    for (int j = lane * kPer; j < b.n; j += kLanes * kPer) {
      int byte = 0;
#pragma unroll
      for (int k = 0; k < kPer; ++k)
        if (j + k < b.n) byte |= codebook_code<1 << Bits>(midpoints, codebook_value(b.x[j + k], s.scale)) << (k * Bits);
      row[(b.first + j) / kPer] = uint8_t(byte);
    }
  }

 private:
  EMBSTORE_HD void look(const Block& b, int lane, Shared& s) const {
    float top = 0.0f, taint = 0.0f;
    for (int j = lane; j < b.n; j += kLanes) {
      const float x = b.x[j], size = x < 0.0f ? -x : x;
      top = size > top ? size : top;
      taint = taint + taint_of(x, b.row * dim + b.first + j, keep, fault);
    }
    s.top[lane] = top, s.taint[lane] = taint;
  }
  EMBSTORE_HD void scale(const Block& b, Shared& s) const {
    float top = 0.0f, taint = 0.0f;
    for (int l = 0; l < kLanes; ++l) {
      top = s.top[l] > top ? s.top[l] : top;
      taint = taint + s.taint[l];
    }
    const bool bad = taint != 0.0f;  // a NaN or inf anywhere: the whole block decodes to NaN
    scales.put(b, b.index, b.row * dim, bad ? bits_to_float(0x7fc00000) : top);
    s.scale = bad ? 0.0f : round_near(top, scales.half);
  }
};

}  // namespace embstore::cuda
