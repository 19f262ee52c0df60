// What is registered once per instruction set, and found for the best one this machine has.
#pragma once
#include <map>
#include <string>
#include <utility>

#include "core/table.h"

namespace embstore {

template <class Value>
class ByIsa {
 public:
  bool add(const std::string& name, const std::string& isa, Value value) {
    values_[{name, isa}] = value;
    return true;
  }
  // A value-initialized Value if there is none.
  Value find(const std::string& name) const {
    for (const auto& isa : usable_isas()) {
      auto at = values_.find({name, isa});
      if (at != values_.end()) return at->second;
    }
    return {};
  }

 private:
  std::map<std::pair<std::string, std::string>, Value> values_;
};

// One per kind of Value: constructed at first use, because registration runs before main.
template <class Value>
ByIsa<Value>& by_isa() {
  static ByIsa<Value> all;
  return all;
}

}  // namespace embstore
