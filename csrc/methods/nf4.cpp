#include "methods/_codebook.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Nf4 {
  static constexpr int kTable = 16, kPerByte = 2, kTogether = 1;
  static float one(const float* table, const uint8_t* row, int64_t j) {
    return table[(row[j / 2] >> (j % 2 * 4)) & 15];
  }
#if !defined(EMBSTORE_ISA_REF)
  class Vectors {
   public:
    Vectors(const float* table, Floats scale) : table_(table), scale_(scale) {
      if constexpr (kPicks) values_ = mul(load(table), scale);
    }
    Floats many(const uint8_t* row, int64_t j) const {
#if defined(EMBSTORE_ISA_AVX512)
      return pick_u4(values_, row + j / 2);
#else
      return mul(pick16(table_, codes_u4(row + j / 2)), scale_);
#endif
    }
    template <class Body>
    void together(const uint8_t*, Body) const {}

   private:
    const float* table_;
    Floats scale_, values_;
  };
#endif
  static void put(uint8_t* row, int64_t j, const uint8_t* codes, int64_t n) {
    for (int64_t k = 0; k < n; k += 2) row[(j + k) / 2] = uint8_t(codes[k] | (k + 1 < n ? codes[k + 1] << 4 : 0));
  }
};

}  // namespace
EMBSTORE_REGISTER(nf4, codebook_kernel<Nf4>, codebook_encode<Nf4>);
}  // namespace embstore::EMBSTORE_ISA
