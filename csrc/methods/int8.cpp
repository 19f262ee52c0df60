#include "methods/_affine.h"

namespace embstore::EMBSTORE_ISA {
EMBSTORE_REGISTER(int8, affine_kernel<Codes8>, affine_encode<8>);
}  // namespace embstore::EMBSTORE_ISA
