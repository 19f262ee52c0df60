// Rows in groups that are stored apart, as embstore/methods/_groups.py writes them.
#pragma once
#include "cuda/core/bytes.cuh"
#include "cuda/methods/_shared.cuh"

namespace embstore::cuda {

inline constexpr int kMaxGroups = 16;

struct GroupSize {
  int64_t rows, end;  // of the group; rows of it and of those before
};

// Sizes are read by group, which registers cannot be: functors have blocks copy them to their own memory.
class RowGroups {
 public:
  struct Place {
    int64_t group, index;  // group is -1 in a damaged table
  };
  int count;
  GroupSize sizes[kMaxGroups] = {};

  RowGroups(const Table& t, int64_t groups) : count(int(groups)), bits_(groups <= 2 ? 1 : groups <= 4 ? 2 : 4) {
    if (groups < 1 || groups > kMaxGroups) throw std::invalid_argument("a table has 1 to 16 groups of rows");
    const int64_t* rows = host_items<int64_t>(t, "group_rows", groups);
    int64_t total = 0;
    for (int g = 0; g < count; ++g) {
      total += rows[g] < 0 || rows[g] > t.num_embeddings ? t.num_embeddings + 1 : rows[g];
      sizes[g] = {rows[g], total};
    }
    if (total != t.num_embeddings)
      throw std::invalid_argument("the groups must have all rows of the table; restore it from a copy");
    if (t.shared.at("tags").nbytes == 0) return;
    const int64_t runs = (t.num_embeddings + 63) / 64;
    tags_ = shared_items<unsigned long long>(t, "tags", runs * bits_);
    ranks_ = shared_items<uint32_t>(t, "ranks", runs * groups);
    for (int shift = 0; shift < 64; shift += bits_) ones_ |= uint64_t(1) << shift;
  }

  // `known`: a copy of `sizes`, each `stride` bytes behind the one before.
  EMBSTORE_HD Place find(int64_t id, const uint8_t* known, int stride) const {
    auto size = [&](int64_t g) { return reinterpret_cast<const GroupSize*>(known + g * stride); };
    Place at{0, id};
    if (tags_ == nullptr) {
      while (id >= size(at.group)->end) ++at.group;
      at.index = id - (size(at.group)->end - size(at.group)->rows);
      return at;
    }
    const auto* run = tags_ + id / 64 * bits_;
    const int bit = int(id % 64) * bits_, word = bit / 64;
    at.group = int64_t((read(run + word) >> (bit % 64)) & ((1u << bits_) - 1));
    if (at.group >= count) return {-1, 0};
    at.index = read(ranks_ + id / 64 * count + at.group);
    const uint64_t wanted = ones_ * uint64_t(at.group);
    for (int w = 0; w <= word; ++w) {
      // A lane becomes 0 in its lowest bit where the tag is the wanted one.
      uint64_t other = read(run + w) ^ wanted;
      if (bits_ == 4) other |= other >> 2;
      if (bits_ >= 2) other |= other >> 1;
      uint64_t same = ~other & ones_;
      if (w == word) same &= (uint64_t(1) << (bit % 64)) - 1;
      at.index += count_ones(same);
    }
    return at.index < size(at.group)->rows ? at : Place{-1, 0};
  }

 private:
  int bits_;
  const unsigned long long* tags_ = nullptr;
  const uint32_t* ranks_ = nullptr;
  uint64_t ones_ = 0;
};

}  // namespace embstore::cuda
