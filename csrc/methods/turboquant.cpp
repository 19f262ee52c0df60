#include "methods/_grid.h"

namespace embstore::EMBSTORE_ISA {
EMBSTORE_REGISTER(turboquant, grid_kernel<4>, grid_encode<Grid::kNormal>);
}  // namespace embstore::EMBSTORE_ISA
