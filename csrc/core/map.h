#pragma once
#include <cstdint>
#include <string>

namespace embstore {

// A read-only shared mapping of the first nbytes of a file; no descriptor is kept. Throws std::system_error.
const uint8_t* map_file(const std::string& path, uint64_t nbytes);
void unmap_file(const uint8_t* data, uint64_t nbytes);

// Asks the kernel for the pages of the given rows when a sample of them is not in memory, so that a cold batch is
// read with many requests in flight instead of one page fault after the other.
struct RowArray;
void read_ahead(const RowArray& array, int shift, const int64_t* ids, int64_t n);

}  // namespace embstore
