#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>

#include "core/map.h"
#include "core/pool.h"
#include "core/search.h"
#include "core/table.h"
#include "core/transform.h"

namespace nb = nanobind;
using namespace embstore;

void bind_keys(nb::module_& m);
Params params_of(const nb::dict& config);

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableIds = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Halves = nb::ndarray<uint16_t, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Outputs from this size on bypass the cache: they would push out the table and not stay themselves.
constexpr int64_t kStreamBytes = 8 << 20;

// Sixteen compares a step instead of a branch an id.
int64_t first_out_of_range(const int64_t* ids, int64_t n, int64_t limit) {
  uint64_t worst = 0;
  for (int64_t i = 0; i < n; ++i) worst = uint64_t(ids[i]) > worst ? uint64_t(ids[i]) : worst;
  if (worst < uint64_t(limit) || n == 0) return -1;
  for (int64_t i = 0; i < n; ++i)
    if (uint64_t(ids[i]) >= uint64_t(limit)) return i;
  return -1;
}

// A method's kernel bound to one table. It keeps the arrays alive; their sizes are checked here, once.
class BoundTable {
 public:
  BoundTable(const std::string& method, const nb::dict& config, int64_t num_embeddings, int64_t embedding_dim,
             int64_t rows_per_shard, const nb::dict& rows, const nb::dict& shared)
      : rows_(rows), shared_(shared) {
    table_.num_embeddings = num_embeddings;
    table_.embedding_dim = embedding_dim;
    table_.params = params_of(config);
    if (rows_per_shard < 1 || (rows_per_shard & (rows_per_shard - 1)) != 0)
      throw nb::value_error("rows_per_shard must be a power of two");
    while ((int64_t(1) << table_.shift) < rows_per_shard) ++table_.shift;
    const int64_t shards = (num_embeddings + rows_per_shard - 1) / rows_per_shard;
    for (auto [name, value] : rows) {
      const auto pair = nb::cast<nb::tuple>(value);  // (row_bytes, [uint8 array per shard])
      RowArray array;
      array.row_bytes = nb::cast<int64_t>(pair[0]);
      const auto parts = nb::cast<nb::list>(pair[1]);
      if (int64_t(parts.size()) != shards) throw nb::value_error("a rows array needs one part for each shard");
      for (int64_t s = 0; s < shards; ++s) {
        const auto part = nb::cast<Bytes>(parts[size_t(s)]);
        const int64_t in_shard = std::min(rows_per_shard, num_embeddings - s * rows_per_shard);
        if (int64_t(part.size()) < in_shard * array.row_bytes)
          throw nb::value_error("a shard is too small for its rows");
        array.bases.push_back(part.data());
      }
      table_.rows[nb::cast<std::string>(name)] = std::move(array);
    }
    for (auto [name, value] : shared) {
      const auto array = nb::cast<Bytes>(value);
      table_.shared[nb::cast<std::string>(name)] = {array.data(), int64_t(array.size())};
    }
    const MethodEntry entry = find_method(method);
    if (entry.kernel == nullptr) throw nb::key_error(method.c_str());
    isa_ = entry.isa;
    kernel_ = entry.kernel(table_);
    codes_ = kernel_.get();
    method_ = method;
    row_dim_ = embedding_dim;
  }

  // From now on rows pass the undoing of this transform, after those of earlier calls.
  void undo_after(const std::string& id, const nb::dict& config, int64_t row_dim, const nb::dict& shared) {
    TransformView view;
    view.code_dim = row_dim_;
    view.row_dim = row_dim;
    view.params = params_of(config);
    for (auto [name, value] : shared) {
      const auto array = nb::cast<Bytes>(value);
      view.shared[nb::cast<std::string>(name)] = {array.data(), int64_t(array.size())};
    }
    const TransformFactory factory = find_transform(id);
    if (factory == nullptr) throw nb::key_error(id.c_str());
    auto step = factory(view);
    if (transformed_ == nullptr) {
      auto wrapped = std::make_unique<TransformedKernel>(std::move(kernel_), table_.embedding_dim);
      transformed_ = wrapped.get();
      kernel_ = std::move(wrapped);
    }
    transformed_->append(std::move(step), row_dim);
    transform_arrays_.append(shared);
    row_dim_ = row_dim;
  }

  int64_t lookup(Ids ids, Floats out, int threads) const { return run(ids, out.data(), out.size(), threads); }
  int64_t lookup_half(Ids ids, Halves out, int threads) const { return run(ids, out.data(), out.size(), threads); }

  int64_t lookup_one(int64_t id, Floats out) const {
    if (uint64_t(id) >= uint64_t(table_.num_embeddings)) return 0;
    if (int64_t(out.size()) != row_dim_) throw nb::value_error("out must hold one row");
    kernel_->lookup(&id, 1, out.data(), false);
    return -1;
  }

  int64_t bag(Ids ids, Ids offsets, nb::object weights, int mode, Floats out, int threads) const {
    const int64_t n = int64_t(ids.size()), bags = int64_t(offsets.size()) - 1;
    if (bags < 0 || int64_t(out.size()) != bags * row_dim_) throw nb::value_error("out must hold one row for each bag");
    Weights given;
    const float* w = nullptr;
    if (!weights.is_none()) {
      given = nb::cast<Weights>(weights);
      if (int64_t(given.size()) != n) throw nb::value_error("weights must be as many as ids");
      w = given.data();
    }
    const int64_t* at = offsets.data();
    if (at[0] < 0 || at[bags] > n) throw nb::value_error("offsets must lie within the ids");
    for (int64_t b = 0; b < bags; ++b)
      if (at[b] > at[b + 1]) throw nb::value_error("offsets must not decrease");
    nb::gil_scoped_release unlocked;
    const int64_t bad = first_out_of_range(ids.data(), n, table_.num_embeddings);
    if (bad >= 0) return bad;
    read_ahead(table_.rows, table_.shift, ids.data(), n);
    const int64_t per_bag = bags == 0 ? 1 : n / bags + 1;
    parallel_for(bags, 1024 / per_bag + 1, threads, [&](int64_t first, int64_t last) {
      kernel_->bag(ids.data(), at, first, last, w, BagMode(mode), out.data());
    });
    return -1;
  }

  // Squared length of every row as a lookup gives it.
  void squared_norms(Floats out, int threads) const {
    if (int64_t(out.size()) != table_.num_embeddings) throw nb::value_error("out must hold a value for each row");
    nb::gil_scoped_release unlocked;
    parallel_for(table_.num_embeddings, 4096, threads, [&](int64_t first, int64_t last) {
      constexpr int64_t kRows = 64;
      std::vector<float> rows(size_t(kRows * row_dim_));
      int64_t ids[kRows];
      for (int64_t at = first; at < last; at += kRows) {
        const int64_t n = std::min(kRows, last - at);
        for (int64_t i = 0; i < n; ++i) ids[i] = at + i;
        kernel_->lookup(ids, n, rows.data(), false);
        for (int64_t i = 0; i < n; ++i) {
          double sum = 0.0;
          for (int64_t j = 0; j < row_dim_; ++j) {
            const double x = rows[size_t(i * row_dim_ + j)];
            sum += x * x;
          }
          out.data()[at + i] = float(sum);
        }
      }
    });
  }

  // Ids of the k best rows of each query, best first; see core/search.h for what `terms` (kernels.ScanTerms) means.
  // queries are in the space of codes: transforms are the caller's affair.
  void scan(Rows queries, int64_t k, nb::object terms, MutableIds ids, int threads) const {
    const int64_t count = int64_t(queries.shape(0)), dim = table_.embedding_dim, n = table_.num_embeddings;
    if (int64_t(queries.shape(1)) != dim) throw nb::value_error("queries must have the width of codes");
    if (k < 1 || int64_t(ids.size()) != count * k) throw nb::value_error("ids must hold k values for each query");
    const float* per_query = optional<Weights, float>(terms.attr("constants"), count);
    const float* scales = optional<Weights, float>(terms.attr("scales"), n);
    const float* biases = optional<Weights, float>(terms.attr("biases"), n);
    const uint8_t* mask = optional<Bytes, uint8_t>(terms.attr("allowed"), n);
    const ScanFunction scan_rows = find_scan();
    nb::gil_scoped_release unlocked;
    const auto scorer = make_scorer();
    for (int64_t q = 0; q < count; q += kTileQueries) {
      const int64_t group = std::min(kTileQueries, count - q);
      const auto prepared = scorer->prepare(queries.data() + q * dim, group);
      Scan scan;
      scan.scorer = scorer.get();
      scan.prepared = prepared.get();
      scan.queries = group;
      scan.rows_per_shard = int64_t(1) << table_.shift;
      scan.constants = per_query == nullptr ? nullptr : per_query + q;
      scan.scales = scales;
      scan.biases = biases;
      scan.allowed = mask;
      TopK best(group, k);
      Floors floors(group);
      scan.floors = &floors;
      std::mutex merging;
      parallel_for(n, 4 * kTileRows, threads, [&](int64_t first, int64_t last) {
        TopK own(group, k);
        scan_rows(scan, first, last, own);
        std::lock_guard<std::mutex> lock(merging);
        best.merge(own);
      });
      for (int64_t i = 0; i < group; ++i) best.result(i, ids.data() + (q + i) * k);
    }
  }

  const std::string& isa() const { return isa_; }

 private:
  template <class Array, class Value>
  static const Value* optional(const nb::object& given, int64_t count) {
    if (given.is_none()) return nullptr;
    const auto array = nb::cast<Array>(given, false);  // not a converted copy: the caller holds it for the call
    if (int64_t(array.size()) != count) throw nb::value_error("an array of the search has the wrong size");
    return array.data();
  }

  std::unique_ptr<Scorer> make_scorer() const {
    if (const ScorerFactory own = find_scorer(method_))
      if (auto scorer = own(table_)) return scorer;
    return find_decode_scorer()(*codes_, table_.embedding_dim);
  }

  void decode(const int64_t* ids, int64_t n, float* out, bool stream) const { kernel_->lookup(ids, n, out, stream); }
  void decode(const int64_t* ids, int64_t n, uint16_t* out, bool) const { kernel_->lookup_half(ids, n, out); }

  template <class T>
  int64_t run(const Ids& ids, T* out, size_t size, int threads) const {
    const int64_t n = int64_t(ids.size()), dim = row_dim_;
    if (int64_t(size) != n * dim) throw nb::value_error("out must hold one row for each id");
    nb::gil_scoped_release unlocked;
    const int64_t bad = first_out_of_range(ids.data(), n, table_.num_embeddings);
    if (bad >= 0) return bad;
    read_ahead(table_.rows, table_.shift, ids.data(), n);
    const bool stream = n * dim * 4 >= kStreamBytes;
    parallel_for(n, 2048, threads, [&](int64_t first, int64_t last) {
      decode(ids.data() + first, last - first, out + first * dim, stream);
    });
    return -1;
  }

  nb::dict rows_, shared_;
  nb::list transform_arrays_;  // keeps what the transforms read alive
  int64_t row_dim_ = 0;
  const Kernel* codes_ = nullptr;             // decodes without the transforms; within kernel_
  TransformedKernel* transformed_ = nullptr;  // kernel_, once there is a transform
  TableView table_;
  std::string method_, isa_;
  std::unique_ptr<Kernel> kernel_;
};

// Encodes a block of rows into `out` (name -> (row_bytes, uint8 array)); false when the method has no native encoder.
bool encode(const std::string& method, const nb::dict& config, Rows rows, const nb::dict& out, const nb::dict& shared,
            int threads) {
  const MethodEntry entry = find_method(method);
  if (entry.encode == nullptr) return false;
  EncodeJob job;
  const int64_t n = int64_t(rows.shape(0));
  job.rows = rows.data();
  job.embedding_dim = int64_t(rows.shape(1));
  job.params = params_of(config);
  for (auto [name, value] : out) {
    const auto pair = nb::cast<nb::tuple>(value);
    const auto array = nb::cast<MutableBytes>(pair[1]);
    const auto key = nb::cast<std::string>(name);
    job.row_bytes[key] = nb::cast<int64_t>(pair[0]);
    job.out[key] = array.data();
    if (int64_t(array.size()) != n * job.row_bytes[key]) throw nb::value_error("an output has the wrong size");
  }
  for (auto [name, value] : shared) {
    const auto array = nb::cast<Bytes>(value);
    job.shared[nb::cast<std::string>(name)] = {array.data(), int64_t(array.size())};
  }
  nb::gil_scoped_release unlocked;
  parallel_for(n, 256, threads, [&](int64_t first, int64_t last) { entry.encode(job, first, last); });
  return true;
}

// Rows through one transform into `out`; false where that is left to numpy. row_dim is that of an undone row.
bool apply_transform(const std::string& id, const nb::dict& config, int64_t row_dim, Rows rows, const nb::dict& shared,
                     Floats out, int threads) {
  const TransformFactory factory = find_transform(id);
  const int64_t n = int64_t(rows.shape(0)), dim = int64_t(rows.shape(1));
  if (factory == nullptr || dim != row_dim) return false;
  TransformView view;
  view.row_dim = dim;
  view.code_dim = n == 0 ? dim : int64_t(out.size()) / n;
  view.params = params_of(config);
  for (auto [name, value] : shared) {
    const auto array = nb::cast<Bytes>(value);
    view.shared[nb::cast<std::string>(name)] = {array.data(), int64_t(array.size())};
  }
  if (int64_t(out.size()) != n * view.code_dim) throw nb::value_error("out must hold one code for each row");
  const auto step = factory(view);
  nb::gil_scoped_release unlocked;
  std::atomic<bool> done{true};
  parallel_for(n, 1024, threads, [&](int64_t first, int64_t last) {
    if (!step->apply(rows.data() + first * dim, last - first, out.data() + first * view.code_dim)) done = false;
  });
  return done;
}

nb::object map_to_array(const std::string& path, uint64_t nbytes) {
  const uint8_t* data = nullptr;
  try {
    data = map_file(path, nbytes);
  } catch (const std::system_error& error) {
    PyErr_SetObject(PyExc_OSError, nb::make_tuple(error.code().value(), error.what()).ptr());
    throw nb::python_error();
  }
  struct Mapping {
    const uint8_t* data;
    uint64_t nbytes;
  };
  nb::capsule owner(new Mapping{data, nbytes}, [](void* p) noexcept {
    auto* mapping = static_cast<Mapping*>(p);
    unmap_file(mapping->data, mapping->nbytes);
    delete mapping;
  });
  static const uint8_t nothing = 0;
  return nb::cast(
      nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(data == nullptr ? &nothing : data, {size_t(nbytes)}, owner));
}

int64_t extend_shards(MappedShards& shards, int64_t count, uint64_t nbytes, nb::bytes index) {
  const std::string expected(index.c_str(), index.size());
  nb::gil_scoped_release unlocked;
  return shards.extend(count, nbytes, expected);
}

nb::object shard_to_array(nb::handle self, size_t shard) {
  const auto& rows = nb::cast<const MappedShards&>(self).at(shard);
  return nb::cast(nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(rows.data, {size_t(rows.nbytes)}, self));
}

}  // namespace

NB_MODULE(_native, m) {
  nb::class_<BoundTable>(m, "BoundTable")
      .def(nb::init<const std::string&, const nb::dict&, int64_t, int64_t, int64_t, const nb::dict&, const nb::dict&>())
      .def("lookup", &BoundTable::lookup, nb::arg("ids"), nb::arg("out").noconvert(), nb::arg("threads"))
      .def("lookup_half", &BoundTable::lookup_half, nb::arg("ids"), nb::arg("out").noconvert(), nb::arg("threads"))
      .def("lookup_one", &BoundTable::lookup_one, nb::arg("id"), nb::arg("out").noconvert())
      .def("bag", &BoundTable::bag, nb::arg("ids"), nb::arg("offsets"), nb::arg("weights").none(), nb::arg("mode"),
           nb::arg("out").noconvert(), nb::arg("threads"))
      .def("undo_after", &BoundTable::undo_after)
      .def("squared_norms", &BoundTable::squared_norms, nb::arg("out").noconvert(), nb::arg("threads"))
      .def("scan", &BoundTable::scan, nb::arg("queries"), nb::arg("k"), nb::arg("terms"), nb::arg("ids").noconvert(),
           nb::arg("threads"))
      .def_prop_ro("isa", &BoundTable::isa);
  m.def("encode", &encode);
  m.def("apply_transform", &apply_transform, nb::arg("id"), nb::arg("config"), nb::arg("row_dim"), nb::arg("rows"),
        nb::arg("shared"), nb::arg("out").noconvert(), nb::arg("threads"));
  m.def("map_file", &map_to_array);
  nb::class_<MappedShards>(m, "MappedShards")
      .def(nb::init<std::string, std::string>(), nb::arg("directory"), nb::arg("suffix"))
      .def("extend", &extend_shards, nb::arg("count"), nb::arg("nbytes"), nb::arg("index"))
      .def("shard", &shard_to_array)
      .def("__len__", &MappedShards::size);
  m.def("usable_isas", &usable_isas);
  m.def("has_transform", [](const std::string& id) { return find_transform(id) != nullptr; });
  m.def("has_kernel", [](const std::string& method) { return find_method(method).kernel != nullptr; });
  bind_keys(m);
}
