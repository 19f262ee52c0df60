// A row of its own for hot ids, found by a map or a list of them; a shared one, under signs, for the others.
#include "cuda/methods/_gather.cuh"
#include "cuda/skeletons/trained.cuh"

namespace embstore::cuda {
namespace {

struct Adapt {
  struct Place {
    int64_t first;
    uint32_t pattern;
  };
  int dim;
  GatherPlan plan;
  const float* table;
  float* gradient;
  bool wide;

  explicit Adapt(const TrainedCall& c) : dim(int(c.dim)) {
    const int64_t cold = c.params.integer("cold", 1);
    plan.hot = c.params.integer("hot", 0);
    if (plan.hot < 0 || cold < 1) throw std::invalid_argument("hot must not be negative and cold at least 1");
    plan.rows = plan.hot + cold;
    plan.seed = c.params.integer("seed", 0);
    plan.sign = c.params.integer("sign", 0) != 0;
    const bool by_map = c.params.integer("by_map", 0) != 0;
    plan.address = by_map ? Address::kMap : Address::kHotIds64;
    plan.where = by_map ? reinterpret_cast<const uint8_t*>(c.values<int32_t>("where", c.num_embeddings))
                        : reinterpret_cast<const uint8_t*>(c.values<int64_t>("where", plan.hot));
    table = c.values<float>("table", plan.rows * dim);
    gradient = c.gradient("table", plan.rows * dim);
    wide = aligned_to_four(table, dim) && aligned_to_four(gradient, dim);
  }

  EMBSTORE_HD Place place(int64_t id) const {
    const GatherPlan::Found found = plan.row_of(id);
    return {found.row * dim, plan.sign ? uint32_t(found.pattern) : 0};
  }
  EMBSTORE_HD void rows(const Place& at, int j, int n, float (&v)[4]) const {
    load_four(table + at.first + j, n, wide, v);
    if (!plan.sign) return;
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = v[k] * sign(at, j + k);
  }
  EMBSTORE_HD void add(const Place& at, int j, int n, const float (&g)[4]) const {
    float own[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) own[k] = plan.sign ? g[k] * sign(at, j + k) : g[k];
    add_four(gradient + at.first + j, n, wide, own);
  }

 private:
  EMBSTORE_HD static float sign(const Place& at, int j) {
    return count_ones(at.pattern & uint32_t(j)) % 2 != 0 ? -1.0f : 1.0f;
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER_TRAINED(adapt, trained<Adapt>);
}  // namespace embstore::cuda
