// int8 and int16 with one scale for the whole table, its `step`, and one offset where codes are not symmetric.
#pragma once
#include <memory>
#include <stdexcept>

#include "core/table.h"

namespace embstore::EMBSTORE_ISA {

// A table with one scale, read as if by row: every row's scale lies in the same place. Null where scales are by row.
inline std::shared_ptr<const TableView> with_scale_by_row(const TableView& t) {
  const bool symmetric = t.params.integer("symmetric", 0) != 0;
  const char* name = symmetric ? "scale" : "affine";
  const auto at = t.shared.find(name);
  if (at == t.shared.end()) return nullptr;
  if (at->second.nbytes != (symmetric ? 4 : 8)) throw std::invalid_argument("the step of a table is a float or two");
  auto view = std::make_shared<TableView>(t);
  RowArray& scale = view->rows[name];
  scale.bases.assign(t.rows.at("codes").bases.size(), at->second.data);
  scale.row_bytes = 0;
  return view;
}

}  // namespace embstore::EMBSTORE_ISA
