#include "methods/_codebook.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Nf4 {
  static constexpr int kTable = 16, kPerByte = 2, kTogether = 1;
  static float one(const float* table, const uint8_t* row, int64_t j) {
    return table[(row[j / 2] >> (j % 2 * 4)) & 15];
  }
#if !defined(EMBSTORE_ISA_REF)
  static Floats many(const float* table, const uint8_t* row, int64_t j) { return pick16(table, codes_u4(row + j / 2)); }
  template <class Body>
  static void together(const float*, const uint8_t*, Body) {}
#endif
  static void put(uint8_t* row, int64_t j, const uint8_t* codes, int64_t n) {
    for (int64_t k = 0; k < n; k += 2) row[(j + k) / 2] = uint8_t(codes[k] | (k + 1 < n ? codes[k + 1] << 4 : 0));
  }
};

}  // namespace
EMBSTORE_REGISTER(nf4, codebook_kernel<Nf4>, codebook_encode<Nf4>);
}  // namespace embstore::EMBSTORE_ISA
