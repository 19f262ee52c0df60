// What follows a method's own decoding: transforms undone, layers, bases. Plain C++.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/core/kernel.h"

namespace embstore::cuda {

// n rows of `in`, to be made rows of `out`. Memory is the device's and begins at multiples of 256, out's last apart.
struct MapCall {
  const float* in = nullptr;
  const float* codes = nullptr;  // what the method decoded, before the first map
  int64_t n = 0;
  void* out = nullptr;  // floats, or half floats
  bool half = false;
  const float* weights = nullptr;  // how often each row has the constant part; null for once each
  // Of the last map: ids of the rows, of which those out of range are left as they are; or for each row whether it is
  // of an empty bag, and zero. Null for neither.
  Integers ids;
  int64_t limit = 0;
  const uint8_t* empty = nullptr;
};

class Map {
 public:
  virtual ~Map() = default;
  virtual void run(const MapCall& call, const Target& target) const = 0;
};

struct MapView {
  int64_t in_dim = 0, out_dim = 0;
  Params params;
  std::map<std::string, Shared> shared;
};

// A method's kernel followed by maps. Rows pass in chunks that stay in the second-level cache of a device.
class MappedKernel final : public Kernel {
 public:
  // linear: the maps are, but for their constant parts, so that bags of a sum or a mean are mapped once.
  MappedKernel(std::unique_ptr<Kernel> inner, int64_t num_embeddings, int64_t in_dim, bool linear)
      : inner_(std::move(inner)), num_embeddings_(num_embeddings), linear_(linear), dims_{in_dim} {}
  // The next map; null changes nothing.
  void append(std::unique_ptr<Map> map, int64_t out_dim);

  void lookup(const LookupCall& call, const Target& target) const override;
  void bag(const BagCall& call, const Target& target) const override;

 private:
  class Scratch;
  int64_t chunk_rows() const;
  void rows(const LookupCall& call, Scratch& scratch, const Target& target) const;
  void maps(MapCall call, Scratch& scratch, const Target& target) const;
  void bag_codes(const BagCall& call, const Target& target) const;
  void bag_rows(const BagCall& call, const Target& target) const;

  std::unique_ptr<Kernel> inner_;
  int64_t num_embeddings_;
  bool linear_;
  std::vector<std::unique_ptr<Map>> maps_;
  std::vector<int64_t> dims_;  // before each map, and after the last
};

// Transforms by id; a factory gives null for what changes nothing, and throws std::invalid_argument where an array is
// missing or of the wrong size.
using TransformFactory = std::unique_ptr<Map> (*)(const MapView&);
bool register_transform(const char* id, TransformFactory factory);
TransformFactory find_transform(const std::string& id);  // null if there is none

}  // namespace embstore::cuda

#define EMBSTORE_CUDA_REGISTER_TRANSFORM(id, factory) \
  static const bool registered_transform_##id = ::embstore::cuda::register_transform(#id, factory)
