// Transforms undone after a method's own decoding: codes to rows, affine, so that bags are mapped back once.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/table.h"

namespace embstore {

struct TransformView {
  int64_t code_dim = 0, row_dim = 0;
  Params params;
  std::map<std::string, SharedArray> shared;
};

class Transform {
 public:
  virtual ~Transform() = default;
  // in: n x code_dim, may be overwritten; out: n x row_dim. weights: how often each row has the constant part; null
  // for once each.
  virtual void undo(float* in, int64_t n, const float* weights, float* out) const noexcept = 0;
  // in: n x row_dim; out: n x code_dim, apart from `in`. The same bits as numpy's, or false: left to numpy.
  virtual bool apply(const float*, int64_t, float*) const noexcept { return false; }
};

// Throws std::invalid_argument where an array is missing or of the wrong size.
using TransformFactory = std::unique_ptr<Transform> (*)(const TransformView&);
bool register_transform(const char* id, const char* isa, TransformFactory factory);
TransformFactory find_transform(const std::string& id);  // null if there is none

// A method's kernel followed by transforms. Rows pass in blocks that stay in the first-level cache; each call makes
// scratch memory once, and the process ends where even that cannot be had.
class TransformedKernel final : public Kernel {
 public:
  explicit TransformedKernel(std::unique_ptr<Kernel> inner, int64_t code_dim);
  // The next transform to undo; its code_dim is the row_dim of the one before.
  void append(std::unique_ptr<Transform> step, int64_t row_dim);

  void lookup(const int64_t* ids, int64_t n, float* out, bool stream) const noexcept override;
  void lookup_half(const int64_t* ids, int64_t n, uint16_t* out) const noexcept override;
  void bag(const int64_t* ids, const int64_t* offsets, int64_t first, int64_t last, const float* weights, BagMode mode,
           float* out) const noexcept override;

 private:
  struct Scratch;
  void undo(Scratch& scratch, int64_t n, const float* weights, float* out) const noexcept;
  void bag_max(const int64_t* ids, int64_t begin, int64_t end, Scratch& scratch, float* out) const noexcept;

  std::unique_ptr<Kernel> inner_;
  std::vector<std::unique_ptr<Transform>> steps_;
  int64_t code_dim_, row_dim_, widest_, block_;
};

}  // namespace embstore

#define EMBSTORE_REGISTER_TRANSFORM(id, factory) \
  static const bool registered_transform_##id =  \
      ::embstore::register_transform(#id, EMBSTORE_STRING(EMBSTORE_ISA), factory)
