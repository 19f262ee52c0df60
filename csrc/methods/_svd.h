// svd: factors are rows of another method's, and rows are factors times a basis.
#pragma once
#include <stdexcept>
#include <string>

#include "core/search.h"
#include "skeletons/row_decode.h"

namespace embstore::EMBSTORE_ISA {

inline std::string factor_of(const Params& params) {
  auto at = params.texts.find("factor");
  if (at == params.texts.end()) throw std::invalid_argument("svd needs to know how its factors are stored");
  return at->second;
}

inline Params factor_params(const Params& params) {
  Params inner;
  inner.integers = {{"symmetric", 1}, {"block_size", params.integer("rank", 1)}};
  inner.texts["scale_dtype"] = "float16";
  inner.texts["range"] = "lse";
  return inner;
}

// The table of factors of a plain svd table, as the method that stores them sees it.
inline TableView factor_table(const TableView& table) {
  TableView inner = table;
  inner.embedding_dim = table.params.integer("rank", 1);
  inner.params = factor_params(table.params);
  return inner;
}

// Factors of a grouped table: a window of stored values within zeros, as wide as all bases together. A row whose
// window is not within what is stored, of a damaged table, is NaN.
struct GroupedFactors : NoColumns {
  enum class Kind { kFloat, kHalf, kInt8 };

  RowArrays<3> arrays;  // group, start and, of int8 factors, scale
  Kind kind;
  const uint8_t* stored;
  int64_t count, groups;
  const uint32_t* ranks;
  int64_t dim = 0, line_bytes = 256;
  using Place = RowArrays<3>::Place;

  explicit GroupedFactors(const TableView& t)
      : arrays(t, {"group", "start", t.rows.count("scale") != 0 ? "scale" : "group"}) {
    const std::string factor = factor_of(t.params);
    kind = factor == "int8" ? Kind::kInt8 : factor == "float16" ? Kind::kHalf : Kind::kFloat;
    const auto& values = t.shared.at(kind == Kind::kInt8 ? "codes" : "values");
    const int64_t width = kind == Kind::kInt8 ? 1 : kind == Kind::kHalf ? 2 : 4;
    stored = values.data;
    count = values.nbytes / width;
    ranks = reinterpret_cast<const uint32_t*>(t.shared.at("ranks").data);
    groups = t.shared.at("ranks").nbytes / 4;
    for (int64_t g = 0; g < groups; ++g) dim += ranks[g];
  }
  float value(int64_t at, float by) const {
    if (kind == Kind::kInt8) return float(reinterpret_cast<const int8_t*>(stored)[at]) * by;
    if (kind == Kind::kHalf) return half_to_float(reinterpret_cast<const uint16_t*>(stored)[at]);
    return reinterpret_cast<const float*>(stored)[at];
  }
  template <class Sink>
  void decode(const Place& place, Sink& sink) const {
    const int64_t g = *place[0];
    uint64_t from = 0;
    std::memcpy(&from, place[1], size_t(arrays.row_bytes[1]));
    if (g >= groups || from > uint64_t(count) || int64_t(from) + ranks[g] > count) {
      for (int64_t j = 0; j < dim; ++j) sink.one(j, __builtin_nanf(""));
      return;
    }
    int64_t first = 0;
    for (int64_t k = 0; k < g; ++k) first += ranks[k];
    const float by = kind == Kind::kInt8 ? half_to_float(*reinterpret_cast<const uint16_t*>(place[2])) : 1.0f;
    const int64_t end = first + ranks[g];
    zeros(0, first, sink);
    for (int64_t j = first; j < end; ++j) sink.one(j, value(int64_t(from) + j - first, by));
    zeros(end, dim, sink);
  }

 private:
  template <class Sink>
  static void zeros(int64_t j, int64_t end, Sink& sink) {
#if !defined(EMBSTORE_ISA_REF)
    j = over_vectors<Sink, 1>(j, end, [&](int64_t at) { sink.many(at, set1(0.0f)); });
#endif
    for (; j < end; ++j) sink.one(j, 0.0f);
  }
};

inline bool grouped(const TableView& table) { return table.params.integer("groups", 1) > 1; }

// Values of a factor; with groups, of all bases together.
inline int64_t factor_width(const TableView& table) {
  return grouped(table) ? GroupedFactors(table).dim : table.params.integer("rank", 1);
}

// A kernel reads through its table's view, so the view of factors must live as long.
class PlainFactors final : public Kernel {
 public:
  explicit PlainFactors(const TableView& table)
      : table_(factor_table(table)), kernel_(find_method(factor_of(table.params)).kernel(table_)) {}
  void lookup(const int64_t* ids, int64_t n, float* out, bool stream) const noexcept override {
    kernel_->lookup(ids, n, out, stream);
  }
  void lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept override {
    kernel_->lookup_half(ids, n, out);
  }
  void bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, const float* weights, BagMode mode,
           float* out) const noexcept override {
    kernel_->bag(ids, offsets, first, last, weights, mode, out);
  }

 private:
  TableView table_;
  std::unique_ptr<Kernel> kernel_;
};

inline std::unique_ptr<Kernel> factor_kernel(const TableView& table) {
  if (grouped(table)) return std::make_unique<RowKernel<GroupedFactors>>(GroupedFactors(table));
  return std::make_unique<PlainFactors>(table);
}

inline const float* basis_of(const TableView& table, int64_t width) {
  const auto& basis = table.shared.at("basis");
  if (basis.nbytes != width * table.embedding_dim * 4) throw std::invalid_argument("the basis has the wrong size");
  return reinterpret_cast<const float*>(basis.data);
}

}  // namespace embstore::EMBSTORE_ISA
