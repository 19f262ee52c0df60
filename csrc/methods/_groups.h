// Rows in groups that are stored apart, as embstore/methods/_groups.py writes them.
#pragma once
#include <stdexcept>

#include "skeletons/indirect.h"

namespace embstore::EMBSTORE_ISA {

inline constexpr int64_t kMaxGroups = 16;

// A shared array of `count` items, or of any number for -1; sizes of files are checked before, free sizes are not.
template <class T>
const T* items(const TableView& t, const std::string& name, int64_t count) {
  auto at = t.shared.find(name);
  if (at == t.shared.end() || at->second.nbytes % int64_t(sizeof(T)) != 0 ||
      (count >= 0 && at->second.nbytes != count * int64_t(sizeof(T))))
    throw std::invalid_argument("array " + name + " is missing or of the wrong size; restore the table from a copy");
  return reinterpret_cast<const T*>(at->second.data);
}

class Groups {
 public:
  struct Place {
    int64_t group, index;  // group is -1 in a damaged table
  };

  Groups(const TableView& t, int64_t groups) : count_(groups), bits_(groups <= 2 ? 1 : groups <= 4 ? 2 : 4) {
    if (groups < 1 || groups > kMaxGroups) throw std::invalid_argument("a table has 1 to 16 groups of rows");
    const int64_t* rows = items<int64_t>(t, "group_rows", groups);
    int64_t total = 0;
    for (int64_t g = 0; g < groups; ++g) {
      rows_[g] = rows[g];
      ends_[g] = total += rows[g] < 0 || rows[g] > t.num_embeddings ? t.num_embeddings + 1 : rows[g];
    }
    if (total != t.num_embeddings)
      throw std::invalid_argument("the groups must have all rows of the table; restore it from a copy");
    if (t.shared.at("tags").nbytes == 0) return;
    const int64_t runs = (t.num_embeddings + 63) / 64;
    tags_ = items<uint64_t>(t, "tags", runs * bits_);
    ranks_ = items<uint32_t>(t, "ranks", runs * groups);
    for (int shift = 0; shift < 64; shift += bits_) ones_ |= uint64_t(1) << shift;
  }

  int64_t rows(int64_t group) const { return rows_[group]; }

  void prefetch(int64_t id) const {
    if (tags_ == nullptr) return;
    ::embstore::EMBSTORE_ISA::prefetch(tags_ + id / 64 * bits_);
    ::embstore::EMBSTORE_ISA::prefetch(ranks_ + id / 64 * count_);
  }

  Place operator()(int64_t id) const {
    Place at{0, id};
    if (tags_ == nullptr) {
      while (id >= ends_[at.group]) ++at.group;
      at.index = id - (ends_[at.group] - rows_[at.group]);
      return at;
    }
    const uint64_t* run = tags_ + id / 64 * bits_;
    const int64_t bit = (id % 64) * bits_, word = bit / 64;
    at.group = int64_t((run[word] >> (bit % 64)) & ((uint64_t(1) << bits_) - 1));
    if (at.group >= count_) return {-1, 0};
    at.index = ranks_[id / 64 * count_ + at.group];
    const uint64_t wanted = ones_ * uint64_t(at.group);
    for (int64_t w = 0; w <= word; ++w) {
      // A lane becomes 0 in its lowest bit where the tag is the wanted one.
      uint64_t other = run[w] ^ wanted;
      if (bits_ == 4) other |= other >> 2;
      if (bits_ >= 2) other |= other >> 1;
      uint64_t same = ~other & ones_;
      if (w == word) same &= (uint64_t(1) << (bit % 64)) - 1;
      at.index += __builtin_popcountll(same);
    }
    return at.index < rows_[at.group] ? at : Place{-1, 0};
  }

 private:
  int64_t count_;
  int bits_;
  int64_t rows_[kMaxGroups] = {};
  int64_t ends_[kMaxGroups] = {};
  const uint64_t* tags_ = nullptr;
  const uint32_t* ranks_ = nullptr;
  uint64_t ones_ = 0;
};

}  // namespace embstore::EMBSTORE_ISA
