// Reading runs of bytes of a row: one wide load where alignment allows, aligned words shifted together otherwise.
#pragma once
#include "cuda/core/number.cuh"

namespace embstore::cuda {

// Arrays are only read while kernels run, so loads may take the read-only path. T: an unsigned integer or a float.
template <class T>
EMBSTORE_HD T read(const T* at) {
#if defined(__CUDA_ARCH__)
  return __ldg(at);
#else
  return *at;
#endif
}
template <class T>
EMBSTORE_HD T read(const uint8_t* at) {
  return read(reinterpret_cast<const T*>(at));
}

// N bytes in registers: 1, 2, 4, 8 or 16, little endian.
template <int N>
struct Bytes {
  static constexpr int kWords = (N + 3) / 4;
  uint32_t words[kWords];

  // The `Bits` bits of code i. A byte or half a word is picked in one instruction, so Bits divides 32.
  template <int Bits>
  EMBSTORE_HD uint32_t code(int i) const {
    const uint32_t word = words[i * Bits / 32];
    if constexpr (Bits == 32)
      return word;
    else
      return (word >> (i * Bits % 32)) & ((1u << Bits) - 1);
  }
};

// The word `bits` bits above the foot of low, high; bits < 32.
EMBSTORE_HD uint32_t shift_together(uint32_t low, uint32_t high, int bits) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_r(low, high, bits);
#else
  return uint32_t((uint64_t(high) << 32 | low) >> bits);
#endif
}

// `align`: a power of two that every address of the run is a multiple of.
template <int N>
EMBSTORE_HD Bytes<N> read_bytes(const uint8_t* at, int align) {
  Bytes<N> got;
  if constexpr (N == 1) {
    got.words[0] = read<uint8_t>(at);
  } else if constexpr (N == 2) {
    got.words[0] = align >= 2 ? read<uint16_t>(at) : read<uint8_t>(at) | uint32_t(read<uint8_t>(at + 1)) << 8;
  } else {
#if defined(__CUDA_ARCH__)
    if (align >= N) {
      if constexpr (N == 4) {
        got.words[0] = read<uint32_t>(at);
      } else if constexpr (N == 8) {
        const uint2 two = __ldg(reinterpret_cast<const uint2*>(at));
        got.words[0] = two.x, got.words[1] = two.y;
      } else {
        const uint4 four = __ldg(reinterpret_cast<const uint4*>(at));
        got.words[0] = four.x, got.words[1] = four.y, got.words[2] = four.z, got.words[3] = four.w;
      }
      return got;
    }
#endif
    const auto address = reinterpret_cast<uintptr_t>(at);
    const auto* from = reinterpret_cast<const uint32_t*>(address & ~uintptr_t(3));
    const int shift = int(address & 3) * 8;
    uint32_t low = read(from);
    for (int k = 0; k < Bytes<N>::kWords; ++k) {
      // The word behind an aligned run is read too: arrays are padded.
      const uint32_t high = read(from + k + 1);
      got.words[k] = shift_together(low, high, shift);
      low = high;
    }
  }
  return got;
}

// A code of 1 to 16 bits out of a row that is one little-endian bit string.
EMBSTORE_HD uint32_t packed_code(const uint8_t* row, int index, int bits) {
  const int bit = index * bits;
  const uint32_t word = read_bytes<4>(row + (bit >> 3), 1).words[0];
  return (word >> (bit & 7)) & ((1u << bits) - 1);
}

// The largest power of two, up to 16, that rows of this size begin at multiples of.
inline int alignment(const void* data, int64_t row_bytes) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) | uint64_t(row_bytes) | 16;
  return int(bits & (~bits + 1));
}

}  // namespace embstore::cuda
