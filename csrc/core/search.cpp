#include "core/search.h"

#include "core/by_isa.h"

namespace embstore {

bool register_scorer(const char* method, const char* isa, ScorerFactory factory) {
  return by_isa<ScorerFactory>().add(method, isa, factory);
}
ScorerFactory find_scorer(const std::string& method) { return by_isa<ScorerFactory>().find(method); }

bool register_decode_scorer(const char* isa, DecodeScorerFactory factory) {
  return by_isa<DecodeScorerFactory>().add("", isa, factory);
}
DecodeScorerFactory find_decode_scorer() { return by_isa<DecodeScorerFactory>().find(""); }

bool register_scan(const char* isa, ScanFunction scan) { return by_isa<ScanFunction>().add("", isa, scan); }
ScanFunction find_scan() { return by_isa<ScanFunction>().find(""); }

}  // namespace embstore
