// subspace: a row is parts side by side, each from a table of its own, chosen by the id's digits or by codes.
#pragma once
#include <stdexcept>
#include <vector>

#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

struct Part {
  int64_t begin, end;  // columns of the row
  const float* table;  // its first entry, from column `begin` on
  int64_t stride, count;
};

// Parts [first, last) of `array`, which holds an entry of each in every row.
inline void read_parts(std::vector<Part>& parts, const SharedArray& array, size_t first, size_t last) {
  const int64_t stride = parts[last - 1].end - parts[first].begin;
  for (size_t p = first; p < last; ++p) {
    parts[p].table = reinterpret_cast<const float*>(array.data) + parts[p].begin - parts[first].begin;
    parts[p].stride = stride;
    parts[p].count = array.nbytes / (4 * stride);
    if (parts[p].count < 1) throw std::invalid_argument("a part of the rows has no entries");
  }
}

inline std::vector<Part> bounds_of_parts(const TableView& t) {
  const int64_t count = t.params.integer("parts", 1), dim = t.embedding_dim;
  std::vector<Part> parts;
  for (int64_t p = 0; p < count; ++p) parts.push_back({p * dim / count, (p + 1) * dim / count, nullptr, 0, 0});
  return parts;
}

// Entries by the digits of the id, the first part by the most significant.
struct Digits {
  Ids arrays;
  std::vector<Part> parts;
  int64_t base;
  using Place = Ids::Place;

  explicit Digits(const TableView& t) : parts(bounds_of_parts(t)) {
    read_parts(parts, t.shared.at("parts"), 0, parts.size());
    base = parts[0].count;
    int64_t rows = 1;
    for (size_t p = 0; p < parts.size() && rows < t.num_embeddings; ++p) rows *= base;
    if (rows < t.num_embeddings) throw std::invalid_argument("the parts have too few entries for the rows");
  }
  // Calls body(p, k) for each part: its entry for the row is the k-th.
  template <class Body>
  void entries(const Place& place, Body body) const {
    int64_t id = place[0];
    for (size_t p = parts.size(); p-- > 0; id /= base) body(p, id % base);
  }
};

// Entries by codes; the last part has its own, of 16 bits. A code of a damaged file that is beyond the entries stands
// for the first.
struct Clusters {
  RowArrays<2> arrays;
  std::vector<Part> parts;
  using Place = RowArrays<2>::Place;

  explicit Clusters(const TableView& t)
      : arrays(t, {t.rows.count("codes") != 0 ? "codes" : "member", "member"}), parts(bounds_of_parts(t)) {
    const size_t last = parts.size() - 1;
    if (last > 0) read_parts(parts, t.shared.at("centroids"), 0, last);
    read_parts(parts, t.shared.at("members"), last, last + 1);
  }
  template <class Body>
  void entries(const Place& place, Body body) const {
    const size_t last = parts.size() - 1;
    for (size_t p = 0; p < last; ++p) body(p, place[0][p] < parts[p].count ? int64_t(place[0][p]) : 0);
    uint16_t member;
    std::memcpy(&member, place[1], 2);
    body(last, member < parts[last].count ? int64_t(member) : 0);
  }
};

inline bool by_clusters(const TableView& t) { return t.params.is("kind", "cluster"); }

}  // namespace embstore::EMBSTORE_ISA
