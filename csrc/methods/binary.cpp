#include "methods/_grid.h"

namespace embstore::EMBSTORE_ISA {
EMBSTORE_REGISTER(binary, grid_kernel<1>, grid_encode<Grid::kSign>);
}  // namespace embstore::EMBSTORE_ISA
