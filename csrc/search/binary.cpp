#include "search/_packed.h"

namespace embstore::EMBSTORE_ISA {

EMBSTORE_REGISTER_SCORER(binary, [](const TableView& t) { return uniform_scorer<1>(t, 2.0f); });

}  // namespace embstore::EMBSTORE_ISA
