// Inner products with residual codes: tables of the products with each codebook's codewords.
#include "search/_code_tables.h"

namespace embstore::EMBSTORE_ISA {
namespace {

EMBSTORE_REGISTER_SCORER(rq, [](const TableView& t) { return table_scorer(t, true); });

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
