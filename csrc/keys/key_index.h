// The key index: an open-addressing hash table over keys that stay where they lie, in an Arrow buffer.
//
// Nothing here owns memory, allocates, throws or knows Python. What is stored may be damaged: every stored
// row and offset is checked when it is used, and every loop is bounded by the capacity.

#ifndef EMBSTORE_KEYS_KEY_INDEX_H_
#define EMBSTORE_KEYS_KEY_INDEX_H_

#include <cstddef>
#include <cstdint>

namespace embstore::keys {

constexpr uint64_t kRowMask = (uint64_t{1} << 40) - 1;
constexpr int kFingerprintShift = 40;
constexpr size_t kHeaderBytes = 64;

// A string to look up. `kNotText` as size marks one that no table can hold (a lone surrogate).
struct Text {
  static constexpr uint64_t kNotText = UINT64_MAX;
  const char* data;
  uint64_t size;
};

enum class Fault : uint8_t { kNone, kRow, kOffsets, kFull, kUtf8, kLost, kDuplicate };

// `row` is the row (or slot, for kRow and kFull) at fault; `other` the second row of a duplicate or of a lost
// key.
struct Result {
  Fault fault = Fault::kNone;
  uint64_t row = 0;
  uint64_t other = 0;
  uint64_t shadowed = 0;
};

inline uint64_t Finalize(uint64_t h) noexcept {
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdULL;
  h ^= h >> 33;
  h *= 0xc4ceb9fe1a85ec53ULL;
  return h ^ (h >> 33);
}

inline uint64_t HashText(const char* data, uint64_t size, uint64_t seed) noexcept {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (uint64_t i = 0; i < size; ++i) h = (h ^ static_cast<uint8_t>(data[i])) * 0x100000001b3ULL;
  return Finalize(h ^ seed);
}

inline uint64_t HashInt(int64_t value, uint64_t seed) noexcept { return Finalize(static_cast<uint64_t>(value) ^ seed); }

// Whether the bytes are UTF-8 as Unicode defines it: shortest forms, no surrogates, up to U+10FFFF.
bool ValidUtf8(const char* data, uint64_t size) noexcept;

// Encodes code points of 1, 2 or 4 bytes; `out` has room for 4 bytes each. Returns the size, or
// Text::kNotText.
template <typename Char>
uint64_t EncodeUtf8(const Char* points, uint64_t n, char* out) noexcept {
  char* p = out;
  for (uint64_t i = 0; i < n; ++i) {
    const uint32_t c = points[i];
    if (c < 0x80) {
      *p++ = static_cast<char>(c);
    } else if (c < 0x800) {
      *p++ = static_cast<char>(0xc0 | (c >> 6));
      *p++ = static_cast<char>(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
      if (c >= 0xd800 && c < 0xe000) return Text::kNotText;
      *p++ = static_cast<char>(0xe0 | (c >> 12));
      *p++ = static_cast<char>(0x80 | ((c >> 6) & 0x3f));
      *p++ = static_cast<char>(0x80 | (c & 0x3f));
    } else {
      *p++ = static_cast<char>(0xf0 | (c >> 18));
      *p++ = static_cast<char>(0x80 | ((c >> 12) & 0x3f));
      *p++ = static_cast<char>(0x80 | ((c >> 6) & 0x3f));
      *p++ = static_cast<char>(0x80 | (c & 0x3f));
    }
  }
  return static_cast<uint64_t>(p - out);
}

// The two kinds of stored keys; both answer the same four questions.
struct TextKeys {
  using Query = Text;
  const int64_t* offsets;  // count + 1
  const char* values;
  uint64_t values_size;
  uint64_t count;
  uint64_t seed;

  bool Get(uint64_t row, Text* out) const noexcept {
    const uint64_t begin = static_cast<uint64_t>(offsets[row]), end = static_cast<uint64_t>(offsets[row + 1]);
    if (begin > end || end > values_size) return false;
    *out = Text{values + begin, end - begin};
    return true;
  }
  uint64_t Hash(const Text& key) const noexcept { return HashText(key.data, key.size, seed); }
  static bool Possible(const Text& key) noexcept { return key.size != Text::kNotText; }
  static bool Equal(const Text& a, const Text& b) noexcept;
  static bool Valid(const Text& key) noexcept { return ValidUtf8(key.data, key.size); }
  void PrefetchWhere(uint64_t row) const noexcept { __builtin_prefetch(offsets + row); }
  void PrefetchKey(uint64_t row) const noexcept {
    // The offset may be damaged: a prefetch of any address is harmless, forming it by integers is defined.
    __builtin_prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(values) + static_cast<uint64_t>(offsets[row])));
  }
};

struct IntKeys {
  using Query = int64_t;
  const int64_t* values;
  uint64_t count;
  uint64_t seed;

  bool Get(uint64_t row, int64_t* out) const noexcept { return *out = values[row], true; }
  uint64_t Hash(int64_t key) const noexcept { return HashInt(key, seed); }
  static bool Possible(int64_t) noexcept { return true; }
  static bool Equal(int64_t a, int64_t b) noexcept { return a == b; }
  static bool Valid(int64_t) noexcept { return true; }
  void PrefetchWhere(uint64_t row) const noexcept { __builtin_prefetch(values + row); }
  void PrefetchKey(uint64_t) const noexcept {}
};

// out[i] = row of keys[i], or `missing`. Stops at the first damage met.
template <typename Keys>
Result Find(const Keys& keys, const uint64_t* slots, uint64_t capacity, const typename Keys::Query* queries, size_t n,
            int64_t missing, int64_t* out) noexcept;

// Puts rows [begin, end) into the slots. A key met before is refused (kDuplicate), or moves to the later row.
template <typename Keys>
Result Insert(const Keys& keys, uint64_t* slots, uint64_t capacity, uint64_t begin, uint64_t end, bool last) noexcept;

// Checks that the keys of rows [begin, end) are valid and find their row (or, with `last`, a later row of the
// same key, counted in `shadowed`).
template <typename Keys>
Result Check(const Keys& keys, const uint64_t* slots, uint64_t capacity, uint64_t begin, uint64_t end,
             bool last) noexcept;

// Slots [begin, end) in use.
uint64_t Occupied(const uint64_t* slots, uint64_t begin, uint64_t end) noexcept;

}  // namespace embstore::keys

#endif  // EMBSTORE_KEYS_KEY_INDEX_H_
