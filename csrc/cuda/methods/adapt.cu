// A row of its own for hot ids, found by a map or a list of them; a shared one for the others.
#include "cuda/methods/_gather.cuh"

namespace embstore::cuda {
namespace {

std::unique_ptr<Kernel> kernel(const Table& t) {
  const int64_t cold = t.params.integer("cold", 1);
  GatherPlan plan;
  plan.hot = t.params.integer("hot", 0);
  if (plan.hot < 0 || cold < 1) throw std::invalid_argument("hot must not be negative and cold at least 1");
  plan.rows = plan.hot + cold;
  plan.seed = t.params.integer("seed", 0);
  if (!t.params.is("map", "hot_ids")) {
    plan.address = Address::kMap;
    plan.where = t.rows.at("map").data;
  } else {
    const bool narrow = t.num_embeddings <= int64_t(1) << 32;
    plan.address = narrow ? Address::kHotIds32 : Address::kHotIds64;
    plan.where = shared_items<uint8_t>(t, "hot_ids", plan.hot * (narrow ? 4 : 8));
  }
  plan.sign = t.params.integer("sign", 0) != 0;
  return gather_kernel(t, plan);
}

}  // namespace
EMBSTORE_CUDA_REGISTER(adapt, kernel);
}  // namespace embstore::cuda
