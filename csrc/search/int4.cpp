#include "search/_integer.h"

namespace embstore::EMBSTORE_ISA {
EMBSTORE_REGISTER_SCORER(int4, integer_scorer<4>);
}  // namespace embstore::EMBSTORE_ISA
