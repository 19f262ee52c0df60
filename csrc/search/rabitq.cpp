#include "search/_packed.h"

namespace embstore::EMBSTORE_ISA {
namespace {

template <int B>
std::unique_ptr<Scorer> scorer(const TableView& t) {
  return uniform_scorer<B>(t, 1.0f);
}

std::unique_ptr<Scorer> scorer_of(const TableView& t) {
  static constexpr ScorerFactory of[] = {scorer<1>, scorer<2>, scorer<3>, scorer<4>,
                                         scorer<5>, scorer<6>, scorer<7>, scorer<8>};
  return of[t.params.integer("bits", 1) - 1](t);
}

}  // namespace

EMBSTORE_REGISTER_SCORER(rabitq, scorer_of);

}  // namespace embstore::EMBSTORE_ISA
