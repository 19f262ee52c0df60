// Inner products with product codes: tables of the products with each slice's centroids.
#include "search/_code_tables.h"

namespace embstore::EMBSTORE_ISA {
namespace {

EMBSTORE_REGISTER_SCORER(pq, [](const TableView& t) { return table_scorer(t, false); });

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
