#include <cmath>
#include <memory>
#include <stdexcept>

#include "methods/_mlp.h"
#include "skeletons/block_decode.h"

namespace embstore::EMBSTORE_ISA {
namespace {

struct NgramHashDecode {
  int64_t dim = 0, block = 96;
  int64_t features, least, most;
  uint64_t seed;
  bool projection;
  mlp::Layer layer = {};
  const uint64_t* offsets;
  SharedArray text;

  explicit NgramHashDecode(const TableView& t)
      : dim(t.embedding_dim),
        features(t.params.integer("features", 0)),
        least(t.params.integer("least", 0)),
        most(t.params.integer("most", 0)),
        seed(uint64_t(t.params.integer("seed", 0))),
        projection(t.params.integer("projection", 0) != 0) {
    if (features < 1 || features > 1 << 16 || least < 1 || most < least || (!projection && features != dim))
      throw std::invalid_argument("features must be from 1 to 65536, and 1 <= least <= most");
    if (projection) layer = mlp::layer_of(t, 0, features, dim);
    offsets = reinterpret_cast<const uint64_t*>(shared_rows(t, "offsets", t.num_embeddings + 1, 8));
    const auto at = t.shared.find("text");
    if (at == t.shared.end()) throw std::invalid_argument("the array text is missing");
    text = at->second;
  }

  void rows(const int64_t* ids, int64_t n, float* out) const {
    if (!projection) {
      for (int64_t i = 0; i < n; ++i) encode(ids[i], out + i * dim);
      return;
    }
    float* x = scratch<NgramHashDecode>(block * features + mlp::panel_floats(features));
    for (int64_t i = 0; i < n; ++i) encode(ids[i], x + i * features);
    mlp::apply(layer, x, n, out, false, x + block * features);
  }

 private:
  // Byte i of "<key>".
  struct Marked {
    const uint8_t* key;
    int64_t size;
    uint8_t operator[](int64_t i) const { return i == 0 ? '<' : i <= size ? key[i - 1] : '>'; }
    // Whether a character begins at byte i, or the text ends there.
    bool begins(int64_t i) const { return i >= size + 2 || ((*this)[i] & 0xC0) != 0x80; }
  };

  void encode(int64_t id, float* x) const {
    // Offsets are not checked when a table is opened: what is beyond the text is left out.
    const uint64_t size = uint64_t(text.nbytes), from = std::min(offsets[id], size);
    const uint64_t to = std::min(std::max(offsets[id + 1], from), size);
    const Marked key{text.data + from, int64_t(to - from)};
    const int64_t end = key.size + 2;
    uint64_t* sums = totals();
    std::fill(sums, sums + features, 0);
    uint64_t grams = 0, whole = kBasis ^ seed;
    for (int64_t i = 0; i < end; ++i) whole = (whole ^ key[i]) * kPrime;
    for (int64_t first = 0; first < end; ++first) {
      if (first > 0 && !key.begins(first)) continue;
      uint64_t hash = kBasis ^ seed;
      int64_t characters = 0;
      for (int64_t i = first; i < end && characters < most;) {
        do hash = (hash ^ key[i++]) * kPrime;
        while (!key.begins(i));
        if (++characters < least) continue;
        add(hash, sums);
        ++grams;
      }
    }
    if (grams == 0) {
      add(whole, sums);
      grams = 1;
    }
    const double scale = std::sqrt(3.0 / double(grams)) / (1 << 23);
    for (int64_t j = 0; j < features; ++j) x[j] = float(double(int64_t(sums[j] - (grams << 23))) * scale);
  }

  // The top 24 bits of the first numbers of SplitMix64, seeded with the hash.
  void add(uint64_t hash, uint64_t* sums) const {
    for (int64_t j = 0; j < features; ++j) {
      uint64_t z = hash + uint64_t(j + 1) * 0x9E3779B97F4A7C15u;
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
      sums[j] += (z ^ (z >> 31)) >> 40;
    }
  }

  uint64_t* totals() const {
    thread_local std::vector<uint64_t> room;
    if (int64_t(room.size()) < features) room.resize(size_t(features));
    return room.data();
  }

  static constexpr uint64_t kBasis = 0xCBF29CE484222325u, kPrime = 0x100000001B3u;  // of 64-bit FNV-1a
};

std::unique_ptr<Kernel> ngram_hash_kernel(const TableView& table) {
  return std::make_unique<BlockKernel<NgramHashDecode>>(NgramHashDecode(table));
}

}  // namespace
EMBSTORE_REGISTER(ngram_hash, ngram_hash_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
