#include "methods/_subspace.h"

namespace embstore::EMBSTORE_ISA {
namespace {

std::unique_ptr<Kernel> subspace_kernel(const TableView& table) {
  return std::make_unique<RowKernel<Subspace>>(Subspace(table));
}

}  // namespace
EMBSTORE_REGISTER(subspace, subspace_kernel, nullptr);
}  // namespace embstore::EMBSTORE_ISA
