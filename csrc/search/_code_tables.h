// The scorer of product and residual codes that suits their width.
#pragma once
#include "search/_nibbles.h"
#include "search/_wide.h"

namespace embstore::EMBSTORE_ISA {

// Null where tables of 32 queries would outgrow the caches by far: decoding is faster then, and needs no room.
inline std::unique_ptr<Scorer> table_scorer(const TableView& t, bool additive) {
  const int64_t bits = t.params.integer("bits", 8), m = t.params.integer("m", 1);
  if (m << bits > int64_t(1) << 17 || m > 1024) return nullptr;
  if (bits == 4) return std::make_unique<NibbleScorer>(t, additive);
  if (bits == 8) return std::make_unique<WideScorer<ByteCodes>>(t, additive);
  return std::make_unique<WideScorer<PackedCodes>>(t, additive);
}

}  // namespace embstore::EMBSTORE_ISA
