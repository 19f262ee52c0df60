#include "methods/_affine.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Codes16 {
  struct Unsigned {
    static constexpr int kBits = 16, kPerByte = 1;
    static int64_t bytes(int64_t j) { return 2 * j; }
    static float one(const uint8_t* row, int64_t j) { return float(reinterpret_cast<const uint16_t*>(row)[j]); }
#if !defined(EMBSTORE_ISA_REF)
    static Floats many(const uint8_t* row, int64_t j) { return from_u16(reinterpret_cast<const uint16_t*>(row) + j); }
#endif
  };
  struct Signed {
    static constexpr int kBits = 16, kPerByte = 1;
    static int64_t bytes(int64_t j) { return 2 * j; }
    static float one(const uint8_t* row, int64_t j) { return float(reinterpret_cast<const int16_t*>(row)[j]); }
#if !defined(EMBSTORE_ISA_REF)
    static Floats many(const uint8_t* row, int64_t j) { return from_i16(reinterpret_cast<const int16_t*>(row) + j); }
#endif
  };
};

}  // namespace
EMBSTORE_REGISTER(int16, affine_kernel<Codes16>, affine_encode<16>);
}  // namespace embstore::EMBSTORE_ISA
