// A row of the shared table times the id's weight, plus its bias where it has one.
#include "cuda/methods/_gather.cuh"

namespace embstore::cuda {
namespace {

std::unique_ptr<Kernel> kernel(const Table& t) {
  GatherPlan plan;
  plan.rows = t.params.integer("rows", 1);
  if (plan.rows < 1) throw std::invalid_argument("rows must be at least 1");
  plan.weight = reinterpret_cast<const float*>(t.rows.at("weight").data);
  if (t.params.integer("bias", 0) != 0) plan.bias = reinterpret_cast<const float*>(t.rows.at("bias").data);
  plan.sign = t.params.integer("sign", 0) != 0;
  return gather_kernel(t, plan);
}

}  // namespace
EMBSTORE_CUDA_REGISTER(memcom, kernel);
}  // namespace embstore::cuda
