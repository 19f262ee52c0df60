// embstore._cuda: pointers and a stream in, launches out. Arrays, shapes and errors are Python's affair.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "cuda/core/device.h"
#include "cuda/core/encode.h"
#include "cuda/core/kernel.h"
#include "cuda/core/placement.h"
#include "cuda/core/trained.h"
#include "cuda/core/transform.h"
#include "cuda/search/search.h"

namespace nb = nanobind;
using namespace embstore;

Params params_of(const nb::dict& config);

namespace {

using HostBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(uintptr_t(address));
}

// Names to (bytes of a row, address).
std::map<std::string, cuda::Rows> rows_of(const nb::dict& arrays) {
  std::map<std::string, cuda::Rows> rows;
  for (auto [name, value] : arrays) {
    const auto pair = nb::cast<nb::tuple>(value);
    rows[nb::cast<std::string>(name)] = {pointer<uint8_t>(nb::cast<uint64_t>(pair[1])), nb::cast<int64_t>(pair[0])};
  }
  return rows;
}

// Names to (bytes on the host, address).
std::map<std::string, cuda::Shared> shared_of(const nb::dict& arrays) {
  std::map<std::string, cuda::Shared> shared;
  for (auto [name, value] : arrays) {
    const auto pair = nb::cast<nb::tuple>(value);
    const auto host = nb::cast<HostBytes>(pair[0]);
    shared[nb::cast<std::string>(name)] = {pointer<uint8_t>(nb::cast<uint64_t>(pair[1])), host.data(),
                                           int64_t(host.size())};
  }
  return shared;
}

// A method's kernel bound to arrays at fixed addresses; whoever made it keeps them there. Device -1 is the host. With
// `slots` some rows are kept on the device, see Rows. Arrays may have rows [first, last) alone, the address then being
// that where row 0 would lie. Not named as that of _native is: nanobind tells types of its extensions apart by name.
class DeviceTable {
 public:
  DeviceTable(const std::string& method, const nb::dict& config, int64_t num_embeddings, int64_t embedding_dim,
              const nb::dict& rows, const nb::dict& shared, int device, uint64_t slots, int64_t first, int64_t last)
      : device_(device),
        num_embeddings_(num_embeddings),
        dim_(embedding_dim),
        first_(first),
        last_(last),
        slots_(pointer<const uint64_t>(slots)) {
    if (first < 0 || last < first || last > num_embeddings) throw nb::value_error("a part must be of the table's rows");
    cuda::Table table;
    table.num_embeddings = num_embeddings;
    table.embedding_dim = embedding_dim;
    table.params = params_of(config);
    if (embedding_dim < 1 || embedding_dim > INT32_MAX / 64) throw nb::value_error("rows are too wide for a device");
    for (auto [name, value] : rows) {
      const auto facts = nb::cast<nb::tuple>(value);  // (row_bytes, address, address of rows kept on the device)
      cuda::Rows& array = table.rows[nb::cast<std::string>(name)];
      array.row_bytes = nb::cast<int64_t>(facts[0]);
      array.data = pointer<uint8_t>(nb::cast<uint64_t>(facts[1]));
      array.hot = pointer<uint8_t>(nb::cast<uint64_t>(facts[2]));
      array.slots = slots_;
    }
    table.shared = shared_of(shared);
    const auto factory = cuda::find_method(method);
    if (factory == nullptr) throw nb::key_error(method.c_str());
    kernel_ = factory(table);
    codes_ = kernel_.get();
    if (slots_ == nullptr) return;
    for (const auto& [name, array] : table.rows)
      if (!array.by_place) throw nb::value_error(("rows of array " + name + " are not looked up one by one").c_str());
  }

  // The next transform to undo; its codes are the rows so far.
  void undo_after(const std::string& id, const nb::dict& config, int64_t row_dim, const nb::dict& shared) {
    const auto factory = cuda::find_transform(id);
    if (factory == nullptr) throw nb::key_error(id.c_str());
    if (row_dim < 1 || row_dim > INT32_MAX / 64) throw nb::value_error("rows are too wide for a device");
    auto map = factory({dim_, row_dim, params_of(config), shared_of(shared)});
    if (mapped_ == nullptr) {
      auto mapped = std::make_unique<cuda::MappedKernel>(std::move(kernel_), num_embeddings_, dim_, true);
      mapped_ = mapped.get();
      kernel_ = std::move(mapped);
    }
    mapped_->append(std::move(map), row_dim);
    dim_ = row_dim;
  }

  void lookup(uint64_t ids, bool wide, int64_t n, uint64_t out, bool half, uint64_t fault, uint64_t stream) const {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device_);
    cuda::LookupCall call;
    call.ids = {pointer<const void>(ids), wide};
    call.n = n;
    call.out = pointer<void>(out);
    call.half = half;
    call.fault = pointer<cuda::Fault>(fault);
    kernel_->lookup(call, cuda::target_of(device_, pointer<void>(stream)));
  }

  // Without offsets (address 0) every bag has `length` ids. weights may be 0.
  void bag(uint64_t ids, bool wide, int64_t n, uint64_t offsets, bool offsets_wide, int64_t num_offsets, int64_t bags,
           int64_t length, uint64_t weights, int mode, uint64_t out, bool half, uint64_t fault, uint64_t stream) const {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device_);
    cuda::BagCall call;
    call.ids = {pointer<const void>(ids), wide};
    call.n = n;
    call.offsets = {pointer<const void>(offsets), offsets_wide};
    call.num_offsets = num_offsets;
    call.bags = bags;
    call.length = length;
    call.weights = pointer<const float>(weights);
    call.mode = BagMode(mode);
    call.out = pointer<void>(out);
    call.half = half;
    call.fault = pointer<cuda::Fault>(fault);
    kernel_->bag(call, cuda::target_of(device_, pointer<void>(stream)));
  }

  // See cuda/core/placement.h.
  void count_ids(uint64_t ids, bool wide, int64_t n, uint64_t seen, uint64_t counts, uint64_t stream) const {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device_);
    cuda::CountCall call;
    call.ids = {pointer<const void>(ids), wide};
    call.n = n;
    call.num_embeddings = num_embeddings_;
    call.slots = slots_;
    call.seen = pointer<uint32_t>(seen);
    call.counts = pointer<uint64_t>(counts);
    cuda::count_ids(call, cuda::target_of(device_, pointer<void>(stream)));
  }

  // The k best rows of each query into `room`; see search/search.h. `first` false: once more, after a search that lost
  // some. `coded`: addresses of what CodedQueries has, in its order, or empty for scores of decoded values.
  void search(uint64_t queries, int count, int k, int metric, uint64_t allowed, uint64_t room, bool first,
              const std::vector<uint64_t>& coded, uint64_t stream) const {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device_);
    cuda::CodedQueries given;
    if (!coded.empty())
      given = {pointer<const uint32_t>(coded.at(0)), pointer<const float>(coded.at(1)),
               pointer<const cuda::QueryTerms>(coded.at(2)), pointer<const float>(coded.at(3))};
    cuda::search(coded.empty() ? *kernel_ : *codes_, search_call(queries, count, k, k, metric, allowed, room),
                 coded.empty() ? nullptr : &given, first, cuda::target_of(device_, pointer<void>(stream)));
  }

  void rescore(uint64_t queries, int count, int wanted, int k, int metric, uint64_t room, uint64_t stream) const {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device_);
    cuda::rescore(*kernel_, search_call(queries, count, wanted, k, metric, 0, room), wanted,
                  cuda::target_of(device_, pointer<void>(stream)));
  }

  // squares: where that of row 0 would lie; rows: room for kDecoded.
  void squared_norms(uint64_t rows, uint64_t squares, uint64_t stream) const {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device_);
    cuda::squared_norms(*kernel_, first_, last_, int(dim_), pointer<float>(rows), pointer<float>(squares),
                        cuda::target_of(device_, pointer<void>(stream)));
  }

  // Entries of a query's tables, 0 where codes are not scored by them; and those of queries in the space of codes.
  int64_t table_entries() const {
    const auto* scores = dynamic_cast<const cuda::TableScores*>(codes_);
    return scores == nullptr ? 0 : scores->entries();
  }
  void make_tables(uint64_t queries, uint64_t constants, int n, uint64_t products, uint64_t tables, uint64_t terms,
                   uint64_t stream) const {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device_);
    dynamic_cast<const cuda::TableScores&>(*codes_).make_tables(
        pointer<const float>(queries), pointer<const float>(constants), n, pointer<float>(products),
        pointer<uint16_t>(tables), pointer<cuda::QueryTerms>(terms), cuda::target_of(device_, pointer<void>(stream)));
  }

  // Columns of a row between which sums of integers become floats, 0 where there are none; see kernel.h.
  int coded_block() const { return codes_->coded_block(); }

 private:
  // In a room for `wanted` of each query.
  cuda::SearchCall search_call(uint64_t queries, int count, int wanted, int k, int metric, uint64_t allowed,
                               uint64_t room) const {
    cuda::SearchCall call;
    call.queries = pointer<const float>(queries);
    call.count = count;
    call.k = k;
    call.metric = cuda::Metric(metric);
    call.allowed = pointer<const uint8_t>(allowed);
    call.first = first_;
    call.last = last_;
    call.dim = int(dim_);
    call.room = cuda::room_at(pointer<uint8_t>(room), count, wanted);
    return call;
  }

  int device_;
  int64_t num_embeddings_, dim_;
  int64_t first_, last_;
  const uint64_t* slots_;
  std::unique_ptr<cuda::Kernel> kernel_;
  const cuda::Kernel* codes_ = nullptr;   // without the transforms
  cuda::MappedKernel* mapped_ = nullptr;  // kernel_, where transforms follow the method
};

// Ids of rows [first, last) to `own`, -1 for others; see cuda/core/placement.h. Device -1 is the host here too.
void route(int device, uint64_t ids, bool wide, int64_t n, int64_t num_embeddings, int64_t first, int64_t last,
           uint64_t own, uint64_t fault, uint64_t stream) {
  nb::gil_scoped_release unlocked;
  cuda::OnDevice on(device);
  cuda::RouteCall call;
  call.ids = {pointer<const void>(ids), wide};
  call.n = n;
  call.num_embeddings = num_embeddings;
  call.first = first;
  call.last = last;
  call.own = pointer<int64_t>(own);
  call.fault = pointer<cuda::Fault>(fault);
  cuda::route_ids(call, cuda::target_of(device, pointer<void>(stream)));
}

void select_own(int device, uint64_t ids, bool wide, int64_t n, int64_t first, int64_t last, uint64_t places,
                uint64_t rows, uint64_t out, int64_t row_bytes, uint64_t stream) {
  nb::gil_scoped_release unlocked;
  cuda::OnDevice on(device);
  cuda::SelectCall call;
  call.ids = {pointer<const void>(ids), wide};
  call.n = n;
  call.first = first;
  call.last = last;
  call.places = pointer<const int64_t>(places);
  call.rows = pointer<const uint8_t>(rows);
  call.out = pointer<uint8_t>(out);
  call.row_bytes = row_bytes;
  cuda::select_rows(call, cuda::target_of(device, pointer<void>(stream)));
}

// Rows of floats to the rows arrays of a method: see core/encode.h. `out` and `shared` are as those of a DeviceTable.
void encode(const std::string& method, const nb::dict& config, uint64_t rows, int64_t n, int64_t dim, bool keep,
            const nb::dict& out, const nb::dict& shared, uint64_t fault, int device, uint64_t stream) {
  const cuda::EncodeFunction function = cuda::find_encoder(method);
  if (function == nullptr) throw nb::key_error(method.c_str());
  if (dim < 1 || dim > INT32_MAX / 64) throw nb::value_error("rows are too wide for a device");
  cuda::EncodeCall call;
  call.rows = pointer<const float>(rows);
  call.n = n;
  call.dim = dim;
  call.params = params_of(config);
  call.out = rows_of(out);
  call.shared = shared_of(shared);
  call.keep = keep;
  call.fault = pointer<cuda::Fault>(fault);
  nb::gil_scoped_release unlocked;
  cuda::OnDevice on(device);
  function(call, cuda::target_of(device, pointer<void>(stream)));
}

// Rows of a kind of weights in training, or their gradient: see core/trained.h. weights: name to (address of the
// values, their bytes, address of the gradient), 0 for none.
void trained(const std::string& kind, const nb::dict& config, int64_t num_embeddings, int64_t dim,
             const nb::dict& weights, uint64_t ids, int64_t n, uint64_t rows, bool backward, int device,
             uint64_t stream) {
  const cuda::TrainedFunction function = cuda::find_trained(kind);
  if (function == nullptr) throw nb::key_error(kind.c_str());
  cuda::TrainedCall call;
  call.num_embeddings = num_embeddings;
  call.dim = dim;
  call.params = params_of(config);
  for (auto [name, value] : weights) {
    const auto three = nb::cast<nb::tuple>(value);
    call.weights[nb::cast<std::string>(name)] = {pointer<const uint8_t>(nb::cast<uint64_t>(three[0])),
                                                 pointer<float>(nb::cast<uint64_t>(three[2])),
                                                 nb::cast<int64_t>(three[1])};
  }
  call.ids = pointer<const int64_t>(ids);
  call.n = n;
  call.rows = pointer<float>(rows);
  call.backward = backward;
  nb::gil_scoped_release unlocked;
  cuda::OnDevice on(device);
  function(call, cuda::target_of(device, pointer<void>(stream)));
}

nb::dict found() {
  const cuda::Found f = cuda::find_devices();
  nb::dict out;
  out["devices"] = f.devices;
  out["driver"] = f.driver;
  out["runtime"] = f.runtime;
  out["code"] = f.code;
  out["what"] = f.what;
  return out;
}

nb::dict facts(int device) {
  const cuda::DeviceFacts f = cuda::facts_of(device);
  nb::dict out;
  out["name"] = f.name;
  out["capability"] = nb::make_tuple(f.major, f.minor);
  out["processors"] = f.processors;
  out["memory"] = f.memory;
  out["shared_bytes"] = f.shared_bytes;
  out["cache_bytes"] = f.cache_bytes;
  return out;
}

// A DLPack capsule over memory of a device that `owner` keeps. kind: "float32" or "float16".
nb::object as_dlpack(uint64_t address, const std::vector<size_t>& shape, const std::string& kind, int device,
                     nb::object owner) {
  const nb::dlpack::dtype dtype{uint8_t(nb::dlpack::dtype_code::Float), uint8_t(kind == "float16" ? 16 : 32), 1};
  return nb::cast(nb::ndarray<>(pointer<void>(address), shape.size(), shape.data(), owner, nullptr, dtype,
                                nb::device::cuda::value, device));
}

// What an object with `__dlpack__` holds: address, shape, strides in items, dtype as in numpy's typestr without its
// order, the DLPack device type and device, and what keeps it alive.
nb::tuple from_dlpack(nb::ndarray<nb::ro> array) {
  nb::list shape, strides;
  for (size_t k = 0; k < array.ndim(); ++k) {
    shape.append(array.shape(k));
    strides.append(array.stride(k));
  }
  const auto dtype = array.dtype();
  static constexpr char kKinds[] = "iuf";
  const std::string kind =
      dtype.code < 3 && dtype.lanes == 1 ? kKinds[dtype.code] + std::to_string(dtype.bits / 8) : "?";
  return nb::make_tuple(reinterpret_cast<uintptr_t>(array.data()), shape, strides, kind, array.device_type(),
                        array.device_id(), nb::cast(array));
}

}  // namespace

NB_MODULE(_cuda, m) {
  static nb::handle refused = PyErr_NewException("embstore._cuda.Refused", PyExc_RuntimeError, nullptr);
  m.attr("Refused") = refused;  // its arguments: CUDA's number of the error, and what it says
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const cuda::Refused& error) {
      PyErr_SetObject(refused.ptr(), nb::make_tuple(error.code, error.what()).ptr());
    }
  });
  nb::class_<DeviceTable>(m, "DeviceTable")
      .def(nb::init<const std::string&, const nb::dict&, int64_t, int64_t, const nb::dict&, const nb::dict&, int,
                    uint64_t, int64_t, int64_t>(),
           nb::arg("method"), nb::arg("config"), nb::arg("num_embeddings"), nb::arg("embedding_dim"), nb::arg("rows"),
           nb::arg("shared"), nb::arg("device"), nb::arg("slots"), nb::arg("first"), nb::arg("last"))
      .def("undo_after", &DeviceTable::undo_after, nb::arg("id"), nb::arg("config"), nb::arg("row_dim"),
           nb::arg("shared"))
      .def("lookup", &DeviceTable::lookup, nb::arg("ids"), nb::arg("wide"), nb::arg("n"), nb::arg("out"),
           nb::arg("half"), nb::arg("fault"), nb::arg("stream"))
      .def("bag", &DeviceTable::bag, nb::arg("ids"), nb::arg("wide"), nb::arg("n"), nb::arg("offsets"),
           nb::arg("offsets_wide"), nb::arg("num_offsets"), nb::arg("bags"), nb::arg("length"), nb::arg("weights"),
           nb::arg("mode"), nb::arg("out"), nb::arg("half"), nb::arg("fault"), nb::arg("stream"))
      .def("count_ids", &DeviceTable::count_ids, nb::arg("ids"), nb::arg("wide"), nb::arg("n"), nb::arg("seen"),
           nb::arg("counts"), nb::arg("stream"))
      .def("search", &DeviceTable::search, nb::arg("queries"), nb::arg("count"), nb::arg("k"), nb::arg("metric"),
           nb::arg("allowed"), nb::arg("room"), nb::arg("first"), nb::arg("coded"), nb::arg("stream"))
      .def("rescore", &DeviceTable::rescore, nb::arg("queries"), nb::arg("count"), nb::arg("wanted"), nb::arg("k"),
           nb::arg("metric"), nb::arg("room"), nb::arg("stream"))
      .def("squared_norms", &DeviceTable::squared_norms, nb::arg("rows"), nb::arg("squares"), nb::arg("stream"))
      .def("coded_block", &DeviceTable::coded_block)
      .def("table_entries", &DeviceTable::table_entries)
      .def("make_tables", &DeviceTable::make_tables, nb::arg("queries"), nb::arg("constants"), nb::arg("n"),
           nb::arg("products"), nb::arg("tables"), nb::arg("terms"), nb::arg("stream"));
  m.def("merge", [](int device, uint64_t hits, int parts, int count, int k, int metric, uint64_t scores, uint64_t ids,
                    uint64_t stream) {
    nb::gil_scoped_release unlocked;
    cuda::OnDevice on(device);
    cuda::merge(pointer<const cuda::Hit>(hits), parts, count, k, cuda::Metric(metric), pointer<float>(scores),
                pointer<int64_t>(ids), cuda::target_of(device, pointer<void>(stream)));
  });
  m.def("room_bytes", &cuda::room_bytes);
  // Where in a room the best are, and where it is told which queries must be searched once more: a uint32 each.
  m.def("room_parts", [](int count, int k) {
    const cuda::SearchRoom room = cuda::room_at(nullptr, count, k);
    return nb::make_tuple(uint64_t(uintptr_t(room.best)), uint64_t(uintptr_t(room.lost)));
  });
  m.attr("DECODED") = cuda::kDecoded;
  m.def("most_queries", &cuda::most_queries);
  m.attr("MOST_HITS") = cuda::kMostHits;
  nb::class_<cuda::Uploader>(m, "Uploader")
      .def(nb::init<int, int64_t>(), nb::arg("device"), nb::arg("buffer_bytes"))
      .def(
          "copy",
          [](cuda::Uploader& self, uint64_t to, const HostBytes& from) {
            nb::gil_scoped_release unlocked;
            self.copy(pointer<void>(to), from.data(), int64_t(from.size()));
          },
          nb::arg("to"), nb::arg("from_"))
      .def("finish", &cuda::Uploader::finish, nb::call_guard<nb::gil_scoped_release>());
  m.def("methods", &cuda::methods);
  m.def("has_encoder", [](const std::string& method) { return cuda::find_encoder(method) != nullptr; });
  m.def("encoders", &cuda::encoders);
  m.def("encode", &encode, nb::arg("method"), nb::arg("config"), nb::arg("rows"), nb::arg("n"), nb::arg("dim"),
        nb::arg("keep"), nb::arg("out"), nb::arg("shared"), nb::arg("fault"), nb::arg("device"), nb::arg("stream"));
  m.def("trained", &trained, nb::arg("kind"), nb::arg("config"), nb::arg("num_embeddings"), nb::arg("dim"),
        nb::arg("weights"), nb::arg("ids"), nb::arg("n"), nb::arg("rows"), nb::arg("backward"), nb::arg("device"),
        nb::arg("stream"));
  m.def("has_kernel", [](const std::string& method) { return cuda::find_method(method) != nullptr; });
  m.def("has_transform", [](const std::string& id) { return cuda::find_transform(id) != nullptr; });
  m.def("found", &found);
  m.def("facts", &facts);
  m.def("device_of", [](uint64_t at) { return cuda::device_of(pointer<const void>(at)); });
  m.def("allocate", [](int device, int64_t n) { return uint64_t(uintptr_t(cuda::allocate(device, n))); });
  m.def("release", [](int device, uint64_t at) { cuda::release(device, pointer<void>(at)); });
  m.def("allocate_on", [](int device, int64_t n, uint64_t stream) {
    return uint64_t(uintptr_t(cuda::allocate_on(device, n, pointer<void>(stream))));
  });
  m.def("release_on", [](int device, uint64_t at, uint64_t stream) {
    cuda::release_on(device, pointer<void>(at), pointer<void>(stream));
  });
  m.def("copy", [](int device, uint64_t to, uint64_t from, int64_t n, bool to_host, uint64_t stream) {
    nb::gil_scoped_release unlocked;
    cuda::copy(device, pointer<void>(to), pointer<const void>(from), n, to_host, pointer<void>(stream));
  });
  m.def("allocate_host", [](int device, int64_t n) {
    const cuda::Pinned at = cuda::allocate_host(device, n);
    return nb::make_tuple(uint64_t(uintptr_t(at.host)), uint64_t(uintptr_t(at.device)));
  });
  m.def("release_host", [](uint64_t at) { cuda::release_host(pointer<void>(at)); });
  m.def("make_stream", [](int device) { return uint64_t(uintptr_t(cuda::make_stream(device))); });
  m.def("drop_stream", [](int device, uint64_t stream) { cuda::drop_stream(device, pointer<void>(stream)); });
  m.def("follow", [](int device, uint64_t stream, int other_device, uint64_t other_stream) {
    cuda::follow(device, pointer<void>(stream), other_device, pointer<void>(other_stream));
  });
  m.def("copy_between",
        [](int to_device, uint64_t to, int from_device, uint64_t from, int64_t n, int on, uint64_t stream) {
          cuda::copy_between(to_device, pointer<void>(to), from_device, pointer<const void>(from), n, on,
                             pointer<void>(stream));
        });
  m.def("clear", [](int device, uint64_t at, int64_t n, uint64_t stream) {
    cuda::clear(device, pointer<void>(at), n, pointer<void>(stream));
  });
  m.def("route", &route);
  m.def("select", &select_own);
  m.def("synchronize", &cuda::synchronize, nb::call_guard<nb::gil_scoped_release>());
  m.def("as_dlpack", &as_dlpack);
  m.def("from_dlpack", &from_dlpack);
  m.attr("PADDING") = cuda::kPadding;
  m.attr("FAULT_BYTES") = int(sizeof(cuda::Fault));
}
