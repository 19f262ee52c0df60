#include "search/_integer.h"

namespace embstore::EMBSTORE_ISA {
EMBSTORE_REGISTER_SCORER(int8, integer_scorer<8>);
}  // namespace embstore::EMBSTORE_ISA
