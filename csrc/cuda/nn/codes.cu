// Rows held as integer codes while they train: value = code * step, one step for the table or one a row. Their gradient
// is that of float rows, so backward has no use for codes.
#include "cuda/skeletons/trained.cuh"

namespace embstore::cuda {
namespace {

struct Codes {
  struct Place {
    int64_t first;
    float step;
  };
  int dim, bytes;
  bool wide, step_by_row;
  const uint8_t* codes;
  const float* steps;
  float* gradient;

  explicit Codes(const TrainedCall& c) : dim(int(c.dim)), bytes(int(c.params.integer("bytes", 1))) {
    const int64_t items = c.num_embeddings * c.dim;
    step_by_row = c.params.integer("step_by_row", 0) != 0;
    if (c.backward) {
      codes = nullptr, steps = nullptr;
      gradient = c.gradient("weight", items);
      wide = aligned_to_four(gradient, dim);
      return;
    }
    if (bytes != 1 && bytes != 2) throw std::invalid_argument("codes must be of 1 or 2 bytes");
    codes = bytes == 1 ? c.values<uint8_t>("codes", items)
                       : reinterpret_cast<const uint8_t*>(c.values<uint16_t>("codes", items));
    steps = c.values<float>("step", step_by_row ? c.num_embeddings : 1);
    gradient = nullptr;
    wide = dim % 4 == 0 && reinterpret_cast<uintptr_t>(codes) % uintptr_t(4 * bytes) == 0;
  }

  EMBSTORE_HD Place place(int64_t id) const {
    return {id * dim, steps == nullptr ? 0.0f : read(steps + (step_by_row ? id : 0))};
  }

  EMBSTORE_HD void rows(const Place& at, int j, int n, float (&v)[4]) const {
    const uint8_t* from = codes + (at.first + j) * bytes;
    if (wide) {
      if (bytes == 1) {
        const uint32_t four = read<uint32_t>(from);
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = float(int8_t(four >> (8 * k))) * at.step;
      } else {
        const uint32_t two[2] = {read<uint32_t>(from), read<uint32_t>(from + 4)};
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = float(int16_t(two[k / 2] >> (k % 2 * 16))) * at.step;
      }
      return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k >= n) continue;
      const float code =
          bytes == 1 ? float(int8_t(read<uint8_t>(from + k))) : float(int16_t(read<uint16_t>(from + 2 * k)));
      v[k] = code * at.step;
    }
  }
  EMBSTORE_HD void add(const Place& at, int j, int n, const float (&g)[4]) const {
    add_four(gradient + at.first + j, n, wide, g);
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER_TRAINED(codes, trained<Codes>);
}  // namespace embstore::cuda
