// Levels rounded to bytes: 254 steps over their range add less error than the rounding of the query.
#include "search/_packed.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <int B>
std::unique_ptr<Scorer> scorer(const TableView& t) {
  const auto* levels = reinterpret_cast<const float*>(t.shared.at("table").data);
  const float top = levels[(1 << B) - 1];
  ByteMeaning meaning{128.0f, top / 127.0f, {}};
  for (int code = 0; code < (1 << B); ++code)
    meaning.bytes[code] = uint8_t(128 + std::lrint(levels[code] / top * 127.0f));
  return std::make_unique<PackedScorer<B, true>>(t, meaning);
}

std::unique_ptr<Scorer> scorer_of(const TableView& t) {
  static constexpr ScorerFactory of[] = {scorer<1>, scorer<2>, scorer<3>, scorer<4>};
  return of[t.params.integer("bits", 1) - 1](t);
}

}  // namespace

EMBSTORE_REGISTER_SCORER(turboquant, scorer_of);

}  // namespace embstore::EMBSTORE_ISA
