#include "keys/key_index.h"

#include <cstring>

namespace embstore::keys {
namespace {

constexpr size_t kGroup = 16;
constexpr uint64_t kNone = UINT64_MAX;

inline uint64_t Fingerprint(uint64_t hash) noexcept { return hash & ~kRowMask; }

// Walks from *pos to the next slot with the fingerprint of `hash`: its row, or kNone at an empty slot.
// *probes counts slots seen over the whole search of one key, so that a table without an empty slot still
// ends.
inline uint64_t Walk(const uint64_t* slots, uint64_t mask, uint64_t hash, uint64_t* pos, uint64_t* probes,
                     uint64_t count, Result* result) noexcept {
  const uint64_t want = Fingerprint(hash);
  while (true) {
    if (*probes > mask) {
      *result = Result{Fault::kFull, *pos, 0, 0};
      return kNone;
    }
    const uint64_t slot = slots[*pos];
    if (slot == 0) return kNone;
    ++*probes;
    if ((slot & ~kRowMask) == want) {
      const uint64_t row = (slot & kRowMask) - 1;  // a zero row wraps to a huge one and is refused
      if (row >= count) {
        *result = Result{Fault::kRow, *pos, row, 0};
        return kNone;
      }
      return row;
    }
    *pos = (*pos + 1) & mask;
  }
}

// Compares the candidate `row` at *pos and walks on until the key is found: its row, or kNone.
template <typename Keys>
inline uint64_t Settle(const Keys& keys, const uint64_t* slots, uint64_t mask, const typename Keys::Query& query,
                       uint64_t hash, uint64_t row, uint64_t* pos, uint64_t* probes, Result* result) noexcept {
  while (row != kNone) {
    typename Keys::Query stored;
    if (!keys.Get(row, &stored)) {
      *result = Result{Fault::kOffsets, row, 0, 0};
      return kNone;
    }
    if (Keys::Equal(query, stored)) return row;
    *pos = (*pos + 1) & mask;
    row = Walk(slots, mask, hash, pos, probes, keys.count, result);
  }
  return kNone;
}

}  // namespace

bool TextKeys::Equal(const Text& a, const Text& b) noexcept {
  return a.size == b.size && (a.size == 0 || std::memcmp(a.data, b.data, a.size) == 0);
}

bool ValidUtf8(const char* data, uint64_t size) noexcept {
  const auto* p = reinterpret_cast<const uint8_t*>(data);
  const uint8_t* const end = p + size;
  while (p < end) {
    if (end - p >= 8) {
      uint64_t word;
      std::memcpy(&word, p, 8);
      if ((word & 0x8080808080808080ULL) == 0) {
        p += 8;
        continue;
      }
    }
    const uint32_t lead = *p++;
    if (lead < 0x80) continue;
    int more;
    uint32_t point, least;
    if ((lead & 0xe0) == 0xc0) {
      more = 1, point = lead & 0x1f, least = 0x80;
    } else if ((lead & 0xf0) == 0xe0) {
      more = 2, point = lead & 0x0f, least = 0x800;
    } else if ((lead & 0xf8) == 0xf0) {
      more = 3, point = lead & 0x07, least = 0x10000;
    } else {
      return false;
    }
    if (end - p < more) return false;
    for (int i = 0; i < more; ++i) {
      if ((p[i] & 0xc0) != 0x80) return false;
      point = (point << 6) | (p[i] & 0x3f);
    }
    p += more;
    if (point < least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
  }
  return true;
}

template <typename Keys>
Result Find(const Keys& keys, const uint64_t* slots, uint64_t capacity, const typename Keys::Query* queries, size_t n,
            int64_t missing, int64_t* out) noexcept {
  Result result;
  const uint64_t mask = capacity - 1;
  // Each stage asks for the memory the next one reads, for the whole group: the misses overlap.
  uint64_t hash[kGroup], pos[kGroup], probes[kGroup], row[kGroup];
  for (size_t start = 0; start < n; start += kGroup) {
    const size_t size = n - start < kGroup ? n - start : kGroup;
    const typename Keys::Query* const group = queries + start;
    for (size_t i = 0; i < size; ++i) {
      hash[i] = Keys::Possible(group[i]) ? keys.Hash(group[i]) : 0;
      pos[i] = hash[i] & mask;
      __builtin_prefetch(slots + pos[i]);
    }
    for (size_t i = 0; i < size; ++i) {
      probes[i] = 0;
      row[i] = kNone;
      if (Keys::Possible(group[i])) row[i] = Walk(slots, mask, hash[i], &pos[i], &probes[i], keys.count, &result);
      if (row[i] != kNone) keys.PrefetchWhere(row[i]);
    }
    if (result.fault != Fault::kNone) return result;
    for (size_t i = 0; i < size; ++i) {
      if (row[i] != kNone) keys.PrefetchKey(row[i]);
    }
    for (size_t i = 0; i < size; ++i) {
      row[i] = Settle(keys, slots, mask, group[i], hash[i], row[i], &pos[i], &probes[i], &result);
      out[start + i] = row[i] == kNone ? missing : static_cast<int64_t>(row[i]);
    }
    if (result.fault != Fault::kNone) return result;
  }
  return result;
}

template <typename Keys>
Result Insert(const Keys& keys, uint64_t* slots, uint64_t capacity, uint64_t begin, uint64_t end, bool last) noexcept {
  Result result;
  const uint64_t mask = capacity - 1;
  uint64_t hash[kGroup];
  typename Keys::Query key[kGroup];
  uint64_t shadowed = 0;
  for (uint64_t start = begin; start < end; start += kGroup) {
    const size_t size = end - start < kGroup ? static_cast<size_t>(end - start) : kGroup;
    for (size_t i = 0; i < size; ++i) {
      if (!keys.Get(start + i, &key[i])) return Result{Fault::kOffsets, start + i, 0, 0};
      hash[i] = keys.Hash(key[i]);
      __builtin_prefetch(slots + (hash[i] & mask), 1);
    }
    for (size_t i = 0; i < size; ++i) {
      uint64_t pos = hash[i] & mask, probes = 0;
      uint64_t row = Walk(slots, mask, hash[i], &pos, &probes, keys.count, &result);
      row = Settle(keys, slots, mask, key[i], hash[i], row, &pos, &probes, &result);
      if (result.fault != Fault::kNone) return result;
      if (row != kNone) {
        if (!last) return Result{Fault::kDuplicate, row, start + i, 0};
        ++shadowed;
      }
      slots[pos] = Fingerprint(hash[i]) | (start + i + 1);
    }
  }
  result.shadowed = shadowed;
  return result;
}

template <typename Keys>
Result Check(const Keys& keys, const uint64_t* slots, uint64_t capacity, uint64_t begin, uint64_t end,
             bool last) noexcept {
  constexpr size_t kBlock = 16 * kGroup;
  typename Keys::Query key[kBlock];
  int64_t found[kBlock];
  uint64_t shadowed = 0;
  for (uint64_t start = begin; start < end; start += kBlock) {
    const size_t size = end - start < kBlock ? static_cast<size_t>(end - start) : kBlock;
    for (size_t i = 0; i < size; ++i) {
      if (!keys.Get(start + i, &key[i])) return Result{Fault::kOffsets, start + i, 0, 0};
      if (!Keys::Valid(key[i])) return Result{Fault::kUtf8, start + i, 0, 0};
    }
    const Result result = Find(keys, slots, capacity, key, size, -1, found);
    if (result.fault != Fault::kNone) return result;
    for (size_t i = 0; i < size; ++i) {
      const int64_t row = static_cast<int64_t>(start + i);
      if (found[i] == row) continue;
      if (found[i] < 0) return Result{Fault::kLost, start + i, UINT64_MAX, 0};
      if (!last || found[i] < row) return Result{Fault::kLost, start + i, static_cast<uint64_t>(found[i]), 0};
      ++shadowed;
    }
  }
  Result result;
  result.shadowed = shadowed;
  return result;
}

uint64_t Occupied(const uint64_t* slots, uint64_t begin, uint64_t end) noexcept {
  uint64_t used = 0;
  for (uint64_t i = begin; i < end; ++i) used += slots[i] != 0;
  return used;
}

template Result Find(const TextKeys&, const uint64_t*, uint64_t, const Text*, size_t, int64_t, int64_t*) noexcept;
template Result Find(const IntKeys&, const uint64_t*, uint64_t, const int64_t*, size_t, int64_t, int64_t*) noexcept;
template Result Insert(const TextKeys&, uint64_t*, uint64_t, uint64_t, uint64_t, bool) noexcept;
template Result Insert(const IntKeys&, uint64_t*, uint64_t, uint64_t, uint64_t, bool) noexcept;
template Result Check(const TextKeys&, const uint64_t*, uint64_t, uint64_t, uint64_t, bool) noexcept;
template Result Check(const IntKeys&, const uint64_t*, uint64_t, uint64_t, uint64_t, bool) noexcept;

}  // namespace embstore::keys
