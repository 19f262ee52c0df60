#include "transforms/_linear.h"

namespace embstore::EMBSTORE_ISA {

EMBSTORE_REGISTER_TRANSFORM(opq, [](const TransformView& view) -> std::unique_ptr<Transform> {
  return std::make_unique<Linear>(view, "components");
});

}  // namespace embstore::EMBSTORE_ISA
