// subspace: a row is parts side by side, each from a table of its own, chosen by the id's digits or by codes.
#pragma once
#include <stdexcept>
#include <vector>

#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

struct Subspace {
  struct Part {
    int64_t begin, end;  // columns of the row
    const float* table;  // its first entry for column `begin`
    int64_t stride, count;
  };

  int64_t dim, line_bytes = 64;
  std::vector<Part> parts;
  bool clusters;
  int64_t base = 0;     // digits of the id, without clusters
  Rows codes, members;  // with them

  explicit Subspace(const TableView& t) : dim(t.embedding_dim), clusters(t.params.is("kind", "cluster")) {
    const int64_t count = t.params.integer("parts", 1);
    for (int64_t p = 0; p < count; ++p) parts.push_back({p * dim / count, (p + 1) * dim / count, nullptr, 0, 0});
    if (clusters)
      read_clusters(t);
    else
      read_digits(t);
  }

  void prefetch(int64_t id) const {
    if (!clusters) return;
    if (parts.size() > 1) codes.prefetch_row(id);
    ::embstore::EMBSTORE_ISA::prefetch(members[id]);
  }
  bool one_block() const { return false; }

  // Calls body(p, k) for each part: its entry for the row is the k-th; the first for a code of a damaged file that is
  // beyond the table.
  template <class Body>
  void entries(int64_t id, Body body) const {
    const size_t last = parts.size() - 1;
    if (!clusters) {
      for (size_t p = last + 1; p-- > 0; id /= base) body(p, id % base);
      return;
    }
    if (last > 0) {
      const uint8_t* row = codes[id];
      for (size_t p = 0; p < last; ++p) body(p, row[p] < parts[p].count ? int64_t(row[p]) : 0);
    }
    uint16_t member;
    std::memcpy(&member, members[id], 2);
    body(last, member < parts[last].count ? int64_t(member) : 0);
  }

  template <int N = 0, class Sink>
  void decode(int64_t id, Sink& sink) const {
    entries(id, [&](size_t p, int64_t k) {
      const Part& part = parts[p];
      const float* entry = part.table + k * part.stride - part.begin;
      int64_t j = part.begin;
#if !defined(EMBSTORE_ISA_REF)
      for (; j + Width <= part.end; j += Width) sink.many(j, load(entry + j));
#endif
      for (; j < part.end; ++j) sink.one(j, entry[j]);
    });
  }

 private:
  void read_clusters(const TableView& t) {
    const size_t last = parts.size() - 1;
    const int64_t first = parts[last].begin;
    if (last > 0) {
      codes = Rows(t, "codes");
      set(t.shared.at("centroids"), first, 0, last);
    }
    members = Rows(t, "member");
    set(t.shared.at("members"), dim - first, last, last + 1);
  }
  void read_digits(const TableView& t) {
    set(t.shared.at("parts"), dim, 0, parts.size());
    base = parts[0].count;
    int64_t rows = 1;
    for (size_t p = 0; p < parts.size() && rows < t.num_embeddings; ++p) rows *= base;
    if (base < 1 || rows < t.num_embeddings) throw std::invalid_argument("the parts are too few for the rows");
  }
  void set(const SharedArray& array, int64_t stride, size_t first, size_t last) {
    for (size_t p = first; p < last; ++p) {
      parts[p].table = reinterpret_cast<const float*>(array.data) + parts[p].begin - parts[first].begin;
      parts[p].stride = stride;
      parts[p].count = array.nbytes / (4 * stride);
      if (parts[p].count < 1) throw std::invalid_argument("a part of the rows has no entries");
    }
  }
};

}  // namespace embstore::EMBSTORE_ISA
