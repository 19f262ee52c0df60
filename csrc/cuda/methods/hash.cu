#include "cuda/methods/_gather.cuh"

namespace embstore::cuda {
namespace {

std::unique_ptr<Kernel> kernel(const Table& t) {
  GatherPlan plan;
  plan.address = t.params.is("hash", "mix") ? Address::kHash : Address::kRemainder;
  plan.rows = t.params.integer("rows", 1);
  plan.seed = t.params.integer("seed", 0);
  plan.sign = t.params.integer("sign", 0) != 0;
  return gather_kernel(t, plan);
}

}  // namespace
EMBSTORE_CUDA_REGISTER(hash, kernel);
}  // namespace embstore::cuda
