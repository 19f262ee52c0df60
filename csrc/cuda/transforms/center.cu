#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/map.cuh"

namespace embstore::cuda {
namespace {

struct Center {
  int dim;
  const float* mean;

  EMBSTORE_HD void four(const MapRows& rows, int64_t r, int j, float (&v)[4]) const {
    const int align = dim % 4 == 0 ? 16 : 4;
    const auto* in = reinterpret_cast<const uint8_t*>(rows.call.in + r * dim + j);
    const Bytes<16> codes = read_bytes<16>(in, align);
    const Bytes<16> constant = read_bytes<16>(reinterpret_cast<const uint8_t*>(mean + j), 16);
    const float weight = rows.weight(r);
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = bits_float(codes.words[k]) + weight * bits_float(constant.words[k]);
  }
};

std::unique_ptr<Map> center(const MapView& view) {
  if (view.in_dim != view.out_dim) throw std::invalid_argument("center keeps the number of values");
  const float* mean = shared_items<float>(view, "mean", view.out_dim);
  return std::make_unique<TaskMap<Center, ColumnsTask>>(Center{int(view.out_dim), mean});
}

}  // namespace
EMBSTORE_CUDA_REGISTER_TRANSFORM(center, center);
}  // namespace embstore::cuda
