#include "methods/_codebook.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Dynamic8 {
  static constexpr int kTable = 256, kPerByte = 1;
  static float one(const float* table, const uint8_t* row, int64_t j) { return table[row[j]]; }
#if defined(EMBSTORE_ISA_AVX512)
  static constexpr int kTogether = 4;
  class Vectors {
   public:
    Vectors(const float* table, Floats scale) : table_(table), scale_(scale) {}
    Floats many(const uint8_t* row, int64_t j) const {
      return mul(_mm512_i32gather_ps(codes_u8(row + j), table_, 4), scale_);
    }
    template <class Body>
    void together(const uint8_t* at, Body body) const {
      const auto* planes = reinterpret_cast<const uint8_t*>(table_ + 256);
      // Within 128-bit lanes the unpacks below put codes 4i .. 4i + 3 of each quarter side by side; gathering dword
      // i of every quarter first makes each result 16 values in order.
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      const __m512i codes = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(at));
      const __mmask64 upper = _mm512_movepi8_mask(codes);
      const __m512i b0 = plane(planes, codes, upper), b1 = plane(planes + 256, codes, upper);
      const __m512i b2 = plane(planes + 512, codes, upper), b3 = plane(planes + 768, codes, upper);
      const __m512i low01 = _mm512_unpacklo_epi8(b0, b1), high01 = _mm512_unpackhi_epi8(b0, b1);
      const __m512i low23 = _mm512_unpacklo_epi8(b2, b3), high23 = _mm512_unpackhi_epi8(b2, b3);
      body(0, mul(_mm512_castsi512_ps(_mm512_unpacklo_epi16(low01, low23)), scale_));
      body(1, mul(_mm512_castsi512_ps(_mm512_unpackhi_epi16(low01, low23)), scale_));
      body(2, mul(_mm512_castsi512_ps(_mm512_unpacklo_epi16(high01, high23)), scale_));
      body(3, mul(_mm512_castsi512_ps(_mm512_unpackhi_epi16(high01, high23)), scale_));
    }

   private:
    // `table` is followed by its four byte planes, 256 bytes each: byte permutes look 64 codes up at once, where a
    // gather takes about two cycles a value.
    static __m512i plane(const uint8_t* p, __m512i codes, __mmask64 upper) {
      const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(p), codes, _mm512_loadu_si512(p + 64));
      const __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(p + 128), codes, _mm512_loadu_si512(p + 192));
      return _mm512_mask_mov_epi8(low, upper, high);
    }
    const float* table_;
    Floats scale_;
  };
#elif !defined(EMBSTORE_ISA_REF)
  static constexpr int kTogether = 1;
  class Vectors {
   public:
    Vectors(const float* table, Floats scale) : table_(table), scale_(scale) {}
    Floats many(const uint8_t* row, int64_t j) const {
      float values[Width];
      for (int l = 0; l < Width; ++l) values[l] = table_[row[j + l]];
      return mul(load(values), scale_);
    }
    template <class Body>
    void together(const uint8_t*, Body) const {}

   private:
    const float* table_;
    Floats scale_;
  };
#endif
  static void put(uint8_t* row, int64_t j, const uint8_t* codes, int64_t n) { std::memcpy(row + j, codes, size_t(n)); }
};

}  // namespace
EMBSTORE_REGISTER(dynamic8, codebook_kernel<Dynamic8>, codebook_encode<Dynamic8>);
}  // namespace embstore::EMBSTORE_ISA
