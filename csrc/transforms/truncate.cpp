#include <cstring>
#include <stdexcept>

#include "core/transform.h"

namespace embstore::EMBSTORE_ISA {
namespace {

class Truncate final : public Transform {
 public:
  explicit Truncate(const TransformView& view) : dim_(view.row_dim) {
    if (view.code_dim != view.row_dim) throw std::invalid_argument("truncate is not undone");
  }
  void undo(float* in, int64_t n, const float*, float* out) const noexcept override {
    std::memcpy(out, in, size_t(n * dim_) * sizeof(float));
  }

 private:
  int64_t dim_;
};

}  // namespace

EMBSTORE_REGISTER_TRANSFORM(truncate, [](const TransformView& view) -> std::unique_ptr<Transform> {
  return std::make_unique<Truncate>(view);
});

}  // namespace embstore::EMBSTORE_ISA
