#include "methods/_affine.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Codes2 {
  using Unsigned = Packed<2, 0>;
  using Signed = Packed<2, 2>;
};

}  // namespace
EMBSTORE_REGISTER(int2, affine_kernel<Codes2>, affine_encode<2>);
}  // namespace embstore::EMBSTORE_ISA
