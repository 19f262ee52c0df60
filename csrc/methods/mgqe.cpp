// mgqe: a code for each part of the row, in more bits for hot rows than for cold ones, from the same codebooks.
#include "methods/_groups.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct MgqeDecode {
  struct Codes {
    const uint8_t* data = nullptr;
    int64_t row_bytes = 0;
    int bits = 0;
  };
  Groups groups;
  Codes codes[2];
  const float* codebooks;
  int64_t parts, centroids, width, dim, line_bytes;

  explicit MgqeDecode(const TableView& t)
      : groups(t, 2),
        parts(t.params.integer("m", 1)),
        centroids(int64_t(1) << t.params.integer("bits", 8)),
        width((t.embedding_dim + parts - 1) / parts),
        dim(t.embedding_dim) {
    const char* names[2] = {"hot_codes", "cold_codes"};
    const char* fields[2] = {"bits", "cold_bits"};
    for (int g = 0; g < 2; ++g) {
      codes[g].bits = int(t.params.integer(fields[g], 8));
      codes[g].row_bytes = (parts * codes[g].bits + 7) / 8;
      codes[g].data = items<uint8_t>(t, names[g], groups.rows(g) * codes[g].row_bytes);
    }
    codebooks = items<float>(t, "codebooks", parts * centroids * width);
    line_bytes = codes[1].row_bytes + 64;
  }
  void prefetch(int64_t id) const { groups.prefetch(id); }
  void follow(int64_t id) const {
    const Groups::Place at = groups(id);
    if (at.group < 0) return;
    const Codes& c = codes[at.group];
    const uint8_t* row = c.data + at.index * c.row_bytes;
    for (int64_t b = 0; b < c.row_bytes; b += 64) ::embstore::EMBSTORE_ISA::prefetch(row + b);
  }
  template <class Sink>
  void decode(int64_t id, Sink& sink) const {
    constexpr int64_t kTile = 256;
    const Groups::Place at = groups(id);
    const Codes& c = codes[at.group < 0 ? 0 : at.group];
    const uint8_t* row = c.data + at.index * c.row_bytes;
    const uint32_t mask = (uint32_t(1) << c.bits) - 1;
    alignas(64) float tile[kTile];
    int64_t fill = 0, done = 0;
    auto flush = [&] {
      int64_t j = 0;
#if !defined(EMBSTORE_ISA_REF)
      for (; j + Width <= fill; j += Width) sink.many(done + j, load(tile + j));
#endif
      for (; j < fill; ++j) sink.one(done + j, tile[j]);
      done += fill;
      fill = 0;
    };
    for (int64_t p = 0, bit = 0; p < parts; ++p, bit += c.bits) {
      uint32_t code = 0;
      if (at.group >= 0) {
        // The second byte only where the code reaches into it: the last one has none after it.
        const int64_t byte = bit / 8, shift = bit % 8;
        code = row[byte];
        if (shift + c.bits > 8) code |= uint32_t(row[byte + 1]) << 8;
        code = (code >> shift) & mask;
      }
      const float* from = codebooks + (p * centroids + int64_t(code)) * width;
      const int64_t end = dim - p * width < width ? dim - p * width : width;
      for (int64_t j = 0; j < end;) {
        const int64_t n = end - j < kTile - fill ? end - j : kTile - fill;
        for (int64_t k = 0; k < n; ++k) tile[fill + k] = at.group < 0 ? 0.0f : from[j + k];
        fill += n;
        j += n;
        if (fill == kTile) flush();
      }
    }
    flush();
  }
};

std::unique_ptr<Kernel> mgqe_kernel(const TableView& t) {
  return std::make_unique<IndirectKernel<MgqeDecode>>(MgqeDecode(t));
}

}  // namespace
EMBSTORE_REGISTER(mgqe, mgqe_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
