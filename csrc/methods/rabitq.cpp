#include "methods/_grid.h"

namespace embstore::EMBSTORE_ISA {
EMBSTORE_REGISTER(rabitq, grid_kernel<8>, grid_encode<Grid::kUniform>);
}  // namespace embstore::EMBSTORE_ISA
