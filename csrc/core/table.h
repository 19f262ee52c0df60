// What Python hands to native code: named arrays, integers, ids, out. Checked once, then only read.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace embstore {

// One `rows` array over all shards: row id lies at bases[id >> shift] + (id & mask) * row_bytes.
struct RowArray {
  std::vector<const uint8_t*> bases;
  int64_t row_bytes = 0;
};

struct SharedArray {
  const uint8_t* data = nullptr;
  int64_t nbytes = 0;
};

struct Params {
  std::map<std::string, int64_t> integers;  // also booleans
  std::map<std::string, std::string> texts;
  int64_t integer(const char* name, int64_t otherwise) const {
    auto at = integers.find(name);
    return at == integers.end() ? otherwise : at->second;
  }
  bool is(const char* name, const char* text) const {
    auto at = texts.find(name);
    return at != texts.end() && at->second == text;
  }
};

struct TableView {
  int64_t num_embeddings = 0;
  int64_t embedding_dim = 0;
  int shift = 0;  // rows_per_shard == 1 << shift
  std::map<std::string, RowArray> rows;
  std::map<std::string, SharedArray> shared;
  Params params;
};

enum class BagMode : int { kSum = 0, kMean = 1, kMax = 2 };

// Ids are in range when these are called; out is C-contiguous.
class Kernel {
 public:
  virtual ~Kernel() = default;
  // out: n x embedding_dim floats; `stream` asks for stores that bypass the cache.
  virtual void lookup(const int64_t* ids, int64_t n, float* out, bool stream) const noexcept = 0;
  // out: n x embedding_dim IEEE half floats, rounded to nearest even.
  virtual void lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept = 0;
  // Bag b pools ids[offsets[b] .. offsets[b + 1]); weights may be null; an empty bag is zero.
  virtual void bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, const float* weights,
                   BagMode mode, float* out) const noexcept = 0;
};

// Encodes rows [first, last) of a C-contiguous float32 block into outputs addressed by the block's row number.
struct EncodeJob {
  const float* rows = nullptr;
  int64_t embedding_dim = 0;
  std::map<std::string, uint8_t*> out;
  std::map<std::string, int64_t> row_bytes;
  std::map<std::string, SharedArray> shared;
  Params params;
};

using KernelFactory = std::unique_ptr<Kernel> (*)(const TableView&);
using EncodeFunction = void (*)(const EncodeJob&, int64_t first, int64_t last);

// Called at static initialization, from the foot of each file in csrc/methods, once per instruction set.
bool register_method(const char* method, const char* isa, KernelFactory kernel, EncodeFunction encode);

struct MethodEntry {
  KernelFactory kernel = nullptr;
  EncodeFunction encode = nullptr;
  std::string isa;
};
// The entry of the best instruction set this machine has (or EMBSTORE_ISA asks for); kernel is null if there is none.
MethodEntry find_method(const std::string& method);
std::vector<std::string> usable_isas();  // best first

}  // namespace embstore

#define EMBSTORE_STRING_(x) #x
#define EMBSTORE_STRING(x) EMBSTORE_STRING_(x)
