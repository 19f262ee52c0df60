// Codes of 1 to 8 bits out of a row that is one little-endian bit string (docs/format.md, "Packed codes").
// Vector loads read exactly the bytes that hold the codes asked for, never beyond.
#pragma once
#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {

template <int Bits>
inline int packed_code(const uint8_t* row, int64_t j) {
  const int64_t bit = j * Bits;
  int word = row[bit / 8];
  if (8 % Bits != 0 && bit % 8 + Bits > 8) word |= row[bit / 8 + 1] << 8;
  return (word >> (bit % 8)) & ((1 << Bits) - 1);
}

// The eight codes of a group, whose bytes begin at `at`, as one number.
template <int Bits>
inline uint64_t packed_group(const uint8_t* at) {
  uint64_t word = 0;
  std::memcpy(&word, at, Bits);
  return word;
}

#if defined(EMBSTORE_ISA_AVX512)

// Bytes of `Count` codes in the low end of a register.
template <int Nbytes>
inline __m128i low_bytes(const uint8_t* at) {
  if constexpr (Nbytes == 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  if constexpr (Nbytes == 8) return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
  return _mm_maskz_loadu_epi8(__mmask16((1u << Nbytes) - 1), at);
}

template <int Bits>
struct Spread16 {  // for each of 16 lanes: its code's two bytes, and how far to shift them
  alignas(64) uint8_t bytes[64] = {};
  alignas(64) uint32_t shifts[16] = {};
  constexpr Spread16() {
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < 4; ++k) bytes[4 * i + k] = uint8_t(i * Bits / 8 + (k == 1 ? 1 : 0));
      shifts[i] = uint32_t(i * Bits % 8);
    }
  }
};

// Width codes from column j, a multiple of Width, with other bits above them.
template <int Bits>
inline Codes loose_codes(const uint8_t* row, int64_t j) {
  static constexpr Spread16<Bits> spread;
  const __m512i packed = _mm512_castsi128_si512(low_bytes<2 * Bits>(row + j * Bits / 8));
  return _mm512_srlv_epi32(_mm512_permutexvar_epi8(_mm512_load_si512(spread.bytes), packed),
                           _mm512_load_si512(spread.shifts));
}
template <int Bits>
inline Codes packed_codes(const uint8_t* row, int64_t j) {
  return _mm512_and_si512(loose_codes<Bits>(row, j), _mm512_set1_epi32((1 << Bits) - 1));
}

#elif defined(EMBSTORE_ISA_AVX2)

template <int Bits>
inline Codes loose_codes(const uint8_t* row, int64_t j) {
  const uint64_t group = packed_group<Bits>(row + j * Bits / 8);
  if constexpr (Bits <= 4)
    return _mm256_srlv_epi32(_mm256_set1_epi32(int(uint32_t(group))),
                             _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits));
  const __m128i low = _mm_set1_epi32(int(uint32_t(group))), high = _mm_set1_epi32(int(uint32_t(group >> (4 * Bits))));
  return _mm256_srlv_epi32(_mm256_set_m128i(high, low),
                           _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 0, Bits, 2 * Bits, 3 * Bits));
}
template <int Bits>
inline Codes packed_codes(const uint8_t* row, int64_t j) {
  return _mm256_and_si256(loose_codes<Bits>(row, j), _mm256_set1_epi32((1 << Bits) - 1));
}

#elif defined(EMBSTORE_ISA_NEON)

template <int Bits>
inline Codes packed_codes(const uint8_t* row, int64_t j) {
  const uint32_t lanes[4] = {uint32_t(packed_code<Bits>(row, j)), uint32_t(packed_code<Bits>(row, j + 1)),
                             uint32_t(packed_code<Bits>(row, j + 2)), uint32_t(packed_code<Bits>(row, j + 3))};
  return vld1q_u32(lanes);
}

#endif

}  // namespace embstore::EMBSTORE_ISA
