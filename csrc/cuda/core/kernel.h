// What the binding hands to kernels, and what a method registers. Plain C++: pointers may lie on a device.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/table.h"

namespace embstore::cuda {

// All rows of an array lie in one run of bytes: row id at data + id * row_bytes. The run begins at a multiple of 256
// and kPadding bytes behind it may be read, so that no lane need look where a row or the array ends.
//
// Where `slots` is given, data is memory of the host that a device reads over its bus, and some rows lie in memory of
// the device too, back to back from `hot` on in the order of ids; see slot_of. by_place: a functor looks rows up so.
struct Rows {
  const uint8_t* data = nullptr;
  int64_t row_bytes = 0;
  const uint8_t* hot = nullptr;
  const uint64_t* slots = nullptr;
  mutable bool by_place = false;
};
inline constexpr int64_t kPadding = 64;

// Placed and padded likewise. `host` is the same bytes where the constructor of a kernel can read them; it is gone
// when kernels run.
struct Shared {
  const uint8_t* data = nullptr;
  const uint8_t* host = nullptr;
  int64_t nbytes = 0;
};

struct Table {
  int64_t num_embeddings = 0;
  int64_t embedding_dim = 0;
  std::map<std::string, Rows> rows;
  std::map<std::string, Shared> shared;
  Params params;
};

// Where a kernel runs: a device and a stream of it, or the host, in loops over the same source (device -1).
struct Target {
  int device = -1;
  void* stream = nullptr;
  int processors = 3;  // streaming multiprocessors
};

// int64 or int32.
struct Integers {
  const void* at = nullptr;
  bool wide = true;
};

// The first wrong id or offset of a call, or of values to encode the first that is no finite number or that the method
// cannot hold, left by kernels for the next call that synchronizes.
enum class FaultKind : int32_t { kNone = 0, kId = 1, kOffset = 2, kNotFinite = 3, kNotHeld = 4 };
struct Fault {
  uint32_t lock = 0;
  FaultKind kind = FaultKind::kNone;
  int64_t position = INT64_MAX;
  int64_t value = 0;
};

// out: n x embedding_dim floats, or IEEE half floats. The row of an id out of range stays as it is, and its fault tells
// its place among the ids behind `position` others. Without ids, they are first, first + stride, ….
struct LookupCall {
  Integers ids;
  int64_t first = 0, stride = 1;
  int64_t n = 0;
  int64_t position = 0;
  void* out = nullptr;
  bool half = false;
  Fault* fault = nullptr;
};

// Bag b pools ids[offsets[b] .. offsets[b + 1]), the last up to n where it has no end; without offsets it has the ids
// from b * length on. An empty bag is zero. weights may be null. A call may be for some bags only: `bags` of them
// behind `position` others, which out does not have. Without ids (of kernels by row alone) id i is i.
struct BagCall {
  Integers ids;
  int64_t n = 0;
  int64_t position = 0;
  Integers offsets;
  int64_t num_offsets = 0;
  int64_t bags = 0;
  int64_t length = 0;
  const float* weights = nullptr;
  BagMode mode = BagMode::kSum;
  void* out = nullptr;
  bool half = false;
  Fault* fault = nullptr;
};

struct ScanCall;  // search/search.h
struct CodedQueries;

// Launches and returns. Throws Refused where CUDA does.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void lookup(const LookupCall& call, const Target& target) const = 0;
  virtual void bag(const BagCall& call, const Target& target) const = 0;
  // Scores of rows from their codes; false where rows must be looked up and scored as floats.
  virtual bool scan(const ScanCall&, const Target&) const { return false; }
  // Scores in integers of codes as they are, with queries that are integers too. Their sums become floats after every
  // `coded_block` columns, 0 where there are no such scores.
  virtual int coded_block() const { return 0; }
  virtual void scan_coded(const ScanCall&, const CodedQueries&, const Target&) const {}
};

// Throws std::invalid_argument for arrays that do not fit the method.
using KernelFactory = std::unique_ptr<Kernel> (*)(const Table&);

// Called at static initialization, from the foot of each file in csrc/cuda/methods.
bool register_method(const char* method, KernelFactory kernel);
KernelFactory find_method(const std::string& method);  // null if there is none
std::vector<std::string> methods();

}  // namespace embstore::cuda

#define EMBSTORE_CUDA_REGISTER(id, kernel) \
  static const bool registered_##id = ::embstore::cuda::register_method(#id, kernel)
