#include "methods/_affine.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct Codes8 {
  struct Unsigned {
    static constexpr int kBits = 8, kPerByte = 1;
    static int64_t bytes(int64_t j) { return j; }
    static float one(const uint8_t* row, int64_t j) { return float(reinterpret_cast<const uint8_t*>(row)[j]); }
#if !defined(EMBSTORE_ISA_REF)
    static Floats many(const uint8_t* row, int64_t j) { return from_u8(reinterpret_cast<const uint8_t*>(row) + j); }
#endif
  };
  struct Signed {
    static constexpr int kBits = 8, kPerByte = 1;
    static int64_t bytes(int64_t j) { return j; }
    static float one(const uint8_t* row, int64_t j) { return float(reinterpret_cast<const int8_t*>(row)[j]); }
#if !defined(EMBSTORE_ISA_REF)
    static Floats many(const uint8_t* row, int64_t j) { return from_i8(reinterpret_cast<const int8_t*>(row) + j); }
#endif
  };
};

}  // namespace
EMBSTORE_REGISTER(int8, affine_kernel<Codes8>, affine_encode<8>);
}  // namespace embstore::EMBSTORE_ISA
