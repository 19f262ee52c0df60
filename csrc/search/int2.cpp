#include "search/_integer.h"

namespace embstore::EMBSTORE_ISA {
EMBSTORE_REGISTER_SCORER(int2, integer_scorer<2>);
}  // namespace embstore::EMBSTORE_ISA
