// Sums of random vectors of the n-grams of a key's characters, which the table has as text.
#include <cmath>

#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_mlp.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

constexpr uint64_t kBasis = 0xCBF29CE484222325u, kPrime = 0x100000001B3u;  // of 64-bit FNV-1a

struct Ngrams : NoTable {
  static constexpr int kColumns = 4, kInFlight = 1;
  struct Place {
    const uint8_t* key;
    int64_t size;
  };
  struct Nothing {};
  int dim;
  int64_t least, most, text_bytes;
  uint64_t seed;
  const unsigned long long* offsets;
  const uint8_t* text;

  // Offsets are not checked when a table is opened: what is beyond the text is left out.
  EMBSTORE_HD Place place(int64_t id) const {
    const uint64_t size = uint64_t(text_bytes), from = smaller<uint64_t>(read(offsets + id), size);
    const uint64_t end = read(offsets + id + 1), to = smaller(end < from ? from : end, size);
    return {text + from, int64_t(to - from)};
  }
  template <int V>
  EMBSTORE_HD Nothing fetch(const Place&, int) const {
    return {};
  }
  // Each lane hashes all n-grams for its own columns: hashing costs less than numbers do.
  template <int V>
  EMBSTORE_HD void decode(const Nothing&, const Place& at, int j, float (&v)[V]) const {
    uint64_t sums[V] = {};
    uint64_t grams = 0;
    const int64_t end = at.size + 2;
    for (int64_t first = 0; first < end; ++first) {
      if (first > 0 && !begins(at, first)) continue;
      uint64_t hash = kBasis ^ seed;
      int64_t characters = 0;
      for (int64_t i = first; i < end && characters < most;) {
        do hash = (hash ^ byte(at, i++)) * kPrime;
        while (!begins(at, i));
        if (++characters < least) continue;
        add<V>(hash, j, sums);
        ++grams;
      }
    }
    if (grams == 0) {
      uint64_t whole = kBasis ^ seed;
      for (int64_t i = 0; i < end; ++i) whole = (whole ^ byte(at, i)) * kPrime;
      add<V>(whole, j, sums);
      grams = 1;
    }
    const double scale = sqrt(3.0 / double(grams)) / (1 << 23);
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = float(double(int64_t(sums[k] - (grams << 23))) * scale);
  }

 private:
  // Byte i of "<key>".
  EMBSTORE_HD static uint8_t byte(const Place& at, int64_t i) {
    return i == 0 ? '<' : i <= at.size ? read<uint8_t>(at.key + i - 1) : '>';
  }
  // Whether a character begins at byte i, or the text ends there.
  EMBSTORE_HD static bool begins(const Place& at, int64_t i) {
    return i >= at.size + 2 || (byte(at, i) & 0xC0) != 0x80;
  }
  // The top 24 bits of the first numbers of SplitMix64, seeded with the hash.
  template <int V>
  EMBSTORE_HD static void add(uint64_t hash, int j, uint64_t (&sums)[V]) {
#pragma unroll
    for (int k = 0; k < V; ++k) sums[k] += mix64(hash + uint64_t(j + k + 1) * 0x9E3779B97F4A7C15u) >> 40;
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  const int64_t features = t.params.integer("features", 0), dim = t.embedding_dim;
  const bool projection = t.params.integer("projection", 0) != 0;
  Ngrams ngrams;
  ngrams.dim = int(features);
  ngrams.least = t.params.integer("least", 0);
  ngrams.most = t.params.integer("most", 0);
  ngrams.seed = uint64_t(t.params.integer("seed", 0));
  if (features < 1 || features > 1 << 16 || ngrams.least < 1 || ngrams.most < ngrams.least ||
      (!projection && features != dim))
    throw std::invalid_argument("features must be from 1 to 65536, and 1 <= least <= most");
  ngrams.offsets = shared_items<unsigned long long>(t, "offsets", t.num_embeddings + 1);
  ngrams.text = shared_items<uint8_t>(t, "text", -1);
  ngrams.text_bytes = t.shared.at("text").nbytes;
  auto inner = row_kernel_of(ngrams, t);
  if (!projection) return inner;
  auto made = std::make_unique<MappedKernel>(std::move(inner), t.num_embeddings, features, false);
  made->append(layer_map(t, 0, features, dim, false), dim);
  return made;
}

}  // namespace
EMBSTORE_CUDA_REGISTER(ngram_hash, kernel);
}  // namespace embstore::cuda
