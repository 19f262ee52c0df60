// A row is parts side by side, each from a table of its own, chosen by the id's digits or by codes.
#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

struct Subspace {
  static constexpr int kColumns = 4, kInFlight = 2;
  struct Place {
    const uint8_t* codes;
    int64_t id;  // or, with codes, the entry of the last part
  };
  int dim, count;
  bool clusters;
  // Entries of all parts, by columns; with codes those of the last part are `members`.
  const float *entries, *members = nullptr;
  int last = 0;  // the first column of the last part
  int64_t base = 1, member_count = 0, entry_count = 0;
  Rows codes, member;
  const int64_t* powers = nullptr;  // what a digit of each part is worth, in a block's own memory

  explicit Subspace(const Table& t)
      : dim(int(t.embedding_dim)), count(int(t.params.integer("parts", 1))), clusters(t.params.is("kind", "cluster")) {
    if (count < 1 || count > dim) throw std::invalid_argument("a row has at most as many parts as values");
    last = int(int64_t(count - 1) * dim / count);
    if (!clusters) {
      entries = shared_items<float>(t, "parts", -1);
      base = t.shared.at("parts").nbytes / (4 * int64_t(dim));
      int64_t rows = 1;
      for (int p = 0; p < count && rows < t.num_embeddings; ++p) rows *= base;
      if (base < 1 || rows < t.num_embeddings)
        throw std::invalid_argument("the parts have too few entries for the rows");
      return;
    }
    if (count > 1) {
      entries = shared_items<float>(t, "centroids", -1);
      entry_count = t.shared.at("centroids").nbytes / (4 * int64_t(last));
      codes = t.rows.at("codes");
    }
    members = shared_items<float>(t, "members", -1);
    member_count = t.shared.at("members").nbytes / (4 * int64_t(dim - last));
    member = t.rows.at("member");
    if (member_count < 1 || (count > 1 && entry_count < 1))
      throw std::invalid_argument("a part of the rows has no entries");
  }

  int64_t table_bytes() const { return clusters ? 0 : 8 * int64_t(count); }
  EMBSTORE_HD void fill(uint8_t* to, int thread, int threads) const {
    for (int p = thread; !clusters && p < count; p += threads) {
      constexpr int64_t kMore = int64_t(1) << 62;  // than ids go up to
      int64_t power = 1;
      for (int q = p + 1; q < count && power < kMore && base > 1; ++q)
        power = power > kMore / base ? kMore : power * base;
      reinterpret_cast<int64_t*>(to)[p] = power;
    }
  }
  EMBSTORE_HD void bind(const uint8_t* table) { powers = reinterpret_cast<const int64_t*>(table); }

  EMBSTORE_HD Place place(int64_t id) const {
    if (!clusters) return {nullptr, id};
    const int64_t k = read<uint16_t>(member.data + id * member.row_bytes);
    return {codes.data + id * codes.row_bytes, k < member_count ? k : 0};
  }

  struct Raw {
    Bytes<16> values;
  };
  template <int V>
  EMBSTORE_HD Raw fetch(const Place& at, int j) const {
    static_assert(V == 4);
    const int p = part_of(j);
    if (p == part_of(smaller(j + V, dim) - 1))
      return {read_bytes<16>(reinterpret_cast<const uint8_t*>(entry(at, p, j)), 4)};
    Raw raw = {};
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (j + k < dim) raw.values.words[k] = read(reinterpret_cast<const uint32_t*>(entry(at, part_of(j + k), j + k)));
    return raw;
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw& raw, const Place&, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = bits_float(raw.values.words[k]);
  }

 private:
  // Part p has the columns from floor(p * dim / count) on.
  EMBSTORE_HD int part_of(int j) const { return int(quotient(int64_t(j + 1) * count - 1, dim)); }
  // Where column j of a row lies, in part p. A code of a damaged file that is beyond the entries stands for the first.
  EMBSTORE_HD const float* entry(const Place& at, int p, int j) const {
    if (!clusters) return entries + modulo(quotient(at.id, powers[p]), base) * dim + j;
    if (p == count - 1) return members + at.id * (dim - last) + (j - last);
    const int64_t k = read<uint8_t>(at.codes + p);
    return entries + (k < entry_count ? k : 0) * last + j;
  }
};

}  // namespace
EMBSTORE_CUDA_REGISTER(subspace, row_kernel<Subspace>);
}  // namespace embstore::cuda
