#include "methods/_affine.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Codes4 {
  using Unsigned = Packed<4, 0>;
  using Signed = Packed<4, 8>;
};

}  // namespace
EMBSTORE_REGISTER(int4, affine_kernel<Codes4>, affine_encode<4>);
}  // namespace embstore::EMBSTORE_ISA
