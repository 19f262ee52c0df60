// The values kept lie back to back, `start` says where those of a row or of a run of rows begin; which columns they are
// of is a bitmap, a list of ascending columns, or one of ascending cells of the run. A row whose stored numbers point
// outside the arrays decodes to zeros.
#include "cuda/methods/_integers.cuh"
#include "cuda/methods/_shared.cuh"
#include "cuda/methods/_values.cuh"
#include "cuda/skeletons/row_decode.cuh"

namespace embstore::cuda {
namespace {

// An item of 1, 2, 4 or 8 bytes.
EMBSTORE_HD uint64_t read_unsigned(const uint8_t* at, int bytes) {
  if (bytes == 4) return read<uint32_t>(at);
  if (bytes == 1) return read<uint8_t>(at);
  return bytes == 2 ? read<uint16_t>(at) : read<unsigned long long>(at);
}

// Where the values of runs of rows begin, and a row's scale.
struct Kept : NoTable {
  static constexpr int kColumns = 4, kInFlight = 2;
  int dim, start_bytes;
  int64_t run, starts_bytes = 0;
  const uint8_t *start, *scales = nullptr, *values;
  Stored kind;
  uint64_t total;

  explicit Kept(const Table& t)
      : dim(int(t.embedding_dim)),
        start_bytes(t.params.is("start_dtype", "uint64") ? 8 : 4),
        run(t.params.integer("rows_per_start", 1)),
        values(shared_items<uint8_t>(t, "values", -1)),
        kind(stored_kind(t.params, "values", Stored::kHalf)),
        total(uint64_t(t.shared.at("values").nbytes) / uint64_t(stored_bytes(kind))) {
    if (run == 1) {
      start = t.rows.at("start").data;
    } else {
      start = shared_items<uint8_t>(t, "start", -1);
      starts_bytes = t.shared.at("start").nbytes;
      if (run < 1 || starts_bytes / start_bytes < (t.num_embeddings + run - 1) / run)
        throw std::invalid_argument("each run of rows needs a start");
    }
    if (t.rows.count("scale") != 0) scales = t.rows.at("scale").data;
  }

  // Of run `at`: where its values begin, and where they end.
  EMBSTORE_HD uint64_t first(int64_t at) const { return read_unsigned(start + at * start_bytes, start_bytes); }
  EMBSTORE_HD uint64_t last(int64_t at) const { return (at + 1) * start_bytes < starts_bytes ? first(at + 1) : total; }
  EMBSTORE_HD bool holds(uint64_t from, uint64_t count) const { return from <= total && count <= total - from; }
  EMBSTORE_HD float scale(int64_t id) const {
    return scales == nullptr ? 1.0f : widen(read<uint16_t>(scales + 2 * id));
  }
  EMBSTORE_HD uint32_t word(uint64_t k) const {
    if (kind == Stored::kFloat) return read<uint32_t>(values + 4 * k);
    return kind == Stored::kHalf ? read<uint16_t>(values + 2 * k) : read<uint8_t>(values + k);
  }
  EMBSTORE_HD float value(uint32_t word, float scale) const {
    const float x = kind == Stored::kFloat  ? bits_float(word)
                    : kind == Stored::kHalf ? widen(uint16_t(word))
                                            : float(int8_t(word));
    return scales == nullptr ? x : x * scale;
  }
};

// Four values, those of columns that are not kept left out.
struct Raw {
  uint32_t words[4];
  uint32_t kept;
};

struct Bitmap : Kept {
  struct Place {
    const uint8_t* mask;  // null for a row that is not within the values
    uint64_t from;
    float scale;
  };
  const uint8_t* masks;
  int64_t mask_bytes;
  int align;

  explicit Bitmap(const Table& t) : Kept(t), masks(t.rows.at("mask").data), mask_bytes(t.rows.at("mask").row_bytes) {
    align = alignment(masks, mask_bytes);
  }

  EMBSTORE_HD Place place(int64_t id) const {
    const int64_t at = quotient(id, run);
    uint64_t from = first(at);
    for (int64_t before = at * run; before < id; ++before)
      from += uint64_t(ones(masks + before * mask_bytes, int(mask_bytes) * 8));
    const uint8_t* mask = masks + id * mask_bytes;
    return {holds(from, uint64_t(ones(mask, int(mask_bytes) * 8))) ? mask : nullptr, from, scale(id)};
  }
  template <int V>
  EMBSTORE_HD Raw fetch(const Place& at, int j) const {
    static_assert(V == 4);
    Raw raw = {};
    if (at.mask == nullptr) return raw;
    raw.kept = (word_of(at.mask, j / 32) >> (j % 32)) & 15;
    const uint64_t from = at.from + uint64_t(ones(at.mask, j));
#pragma unroll
    for (int k = 0; k < V; ++k)
      if ((raw.kept >> k & 1) != 0 && j + k < dim) raw.words[k] = word(from + count_ones(raw.kept & ((1u << k) - 1)));
    return raw;
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw& raw, const Place& at, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = (raw.kept >> k & 1) != 0 ? value(raw.words[k], at.scale) : 0.0f;
  }

 private:
  EMBSTORE_HD uint32_t word_of(const uint8_t* mask, int w) const { return read_bytes<4>(mask + 4 * w, align).words[0]; }
  // Of the first bits of a mask.
  EMBSTORE_HD int ones(const uint8_t* mask, int bits) const {
    int total_ones = 0;
    for (int w = 0; w < bits / 32; ++w) total_ones += count_ones(word_of(mask, w));
    if (bits % 32 != 0) total_ones += count_ones(word_of(mask, bits / 32) & ((1u << bits % 32) - 1));
    return total_ones;
  }
};

// Lists of ascending columns, or of ascending cells: cell c of a run is column c % dim of its row c / dim.
struct Listed : Kept {
  struct Place {
    uint64_t from, end;  // of what is listed of the row, or of all its run
    int64_t base;        // what its column 0 is in the list
    float scale;
  };
  bool cells;
  const uint8_t *list, *counts = nullptr;
  int item_bytes, count_bytes = 0;
  uint64_t listed;

  explicit Listed(const Table& t) : Kept(t), cells(t.params.is("index", "cells")) {
    const char* name = cells ? "cells" : "columns";
    const int64_t most = (cells ? run : 1) * int64_t(dim);
    item_bytes = most <= 1 << 8 ? 1 : most <= 1 << 16 ? 2 : 4;
    list = shared_items<uint8_t>(t, name, -1);
    listed = uint64_t(t.shared.at(name).nbytes / item_bytes);
    if (cells && run == 1) throw std::invalid_argument("cells need runs of two rows or more");
    if (cells) return;
    counts = t.rows.at("count").data;
    count_bytes = int(t.rows.at("count").row_bytes);
  }

  EMBSTORE_HD Place place(int64_t id) const {
    const int64_t at = quotient(id, run);
    const uint64_t from = first(at);
    if (cells) {
      const uint64_t end = last(at);
      const bool good = from <= end && end <= total && end <= listed;
      return {good ? from : 0, good ? end : 0, (id - at * run) * dim, scale(id)};
    }
    const uint64_t end = from + read_unsigned(counts + id * count_bytes, count_bytes);
    const bool good = end >= from && holds(from, end - from) && end <= listed;
    return {good ? from : 0, good ? end : 0, 0, scale(id)};
  }
  // The first listed of columns [j, j + V) is searched for by halves, the others follow it.
  template <int V>
  EMBSTORE_HD Raw fetch(const Place& at, int j) const {
    static_assert(V == 4);
    const int64_t wanted = at.base + j;
    uint64_t low = at.from, high = at.end;
    while (low < high) {
      const uint64_t middle = low + (high - low) / 2;
      if (item(middle) < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    Raw raw = {};
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (j + k >= dim || low >= at.end || item(low) != wanted + k) continue;
      raw.words[k] = word(low++);
      raw.kept |= 1u << k;
    }
    return raw;
  }
  template <int V>
  EMBSTORE_HD void decode(const Raw& raw, const Place& at, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = (raw.kept >> k & 1) != 0 ? value(raw.words[k], at.scale) : 0.0f;
  }

 private:
  EMBSTORE_HD int64_t item(uint64_t k) const {
    return int64_t(read_unsigned(list + int64_t(k) * item_bytes, item_bytes));
  }
};

std::unique_ptr<Kernel> kernel(const Table& t) {
  if (t.params.is("index", "cells") || t.params.is("index", "columns")) return row_kernel<Listed>(t);
  return row_kernel<Bitmap>(t);
}

}  // namespace
EMBSTORE_CUDA_REGISTER(pruned, kernel);
}  // namespace embstore::cuda
