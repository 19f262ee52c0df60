// pca, opq, whiten: rows are codes times `components`, plus `mean` where it is stored.
#include "cuda/methods/_shared.cuh"
#include "cuda/transforms/_linear.cuh"

namespace embstore::cuda {

std::unique_ptr<Map> affine_map(int64_t in_dim, int64_t out_dim, const float* matrix, const float* mean) {
  return std::make_unique<TaskMap<Affine<false>, ProductTask>>(Affine<false>(in_dim, out_dim, matrix, mean));
}
std::unique_ptr<Map> sparse_map(int64_t in_dim, int64_t out_dim, const float* matrix) {
  return std::make_unique<TaskMap<Affine<true>, ProductTask>>(Affine<true>(in_dim, out_dim, matrix, nullptr));
}

namespace {

std::unique_ptr<Map> components(const MapView& view) {
  const bool centred = view.shared.count("mean") != 0;
  return affine_map(view.in_dim, view.out_dim, shared_items<float>(view, "components", view.in_dim * view.out_dim),
                    centred ? shared_items<float>(view, "mean", view.out_dim) : nullptr);
}

}  // namespace
EMBSTORE_CUDA_REGISTER_TRANSFORM(pca, components);
EMBSTORE_CUDA_REGISTER_TRANSFORM(opq, components);
EMBSTORE_CUDA_REGISTER_TRANSFORM(whiten, components);
}  // namespace embstore::cuda
