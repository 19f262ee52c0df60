// int8 and int16 with one scale for the whole table, its `step`.
#pragma once
#include <memory>
#include <stdexcept>

#include "core/table.h"

namespace embstore::EMBSTORE_ISA {

// A table with one scale, read as if by row: every row's scale lies in the same place. Null where scales are by row.
inline std::shared_ptr<const TableView> with_scale_by_row(const TableView& t) {
  const auto at = t.shared.find("scale");
  if (at == t.shared.end()) return nullptr;
  if (at->second.nbytes != 4) throw std::invalid_argument("the step of a table is one float");
  auto view = std::make_shared<TableView>(t);
  RowArray& scale = view->rows["scale"];
  scale.bases.assign(t.rows.at("codes").bases.size(), at->second.data);
  scale.row_bytes = 0;
  return view;
}

}  // namespace embstore::EMBSTORE_ISA
