// Vectors of the compiler's own: one source for every instruction set, and the same bits from each.
#pragma once
#include <cstdint>
#include <cstring>

namespace embstore::EMBSTORE_ISA {

inline constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LanePlaces __attribute__((vector_size(4 * kLanes)));

inline Lanes lanes_at(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class Vector, class Value>
inline void put_lanes(Value* p, Vector v) {
  std::memcpy(p, &v, sizeof v);
}

// Every second lane of two vectors.
#define EMBSTORE_LANES_EVEN(a, b) \
  __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define EMBSTORE_LANES_ODD(a, b) \
  __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)

}  // namespace embstore::EMBSTORE_ISA
