#include "core/map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "core/pool.h"
#include "core/table.h"

namespace embstore {
namespace {

constexpr uintptr_t kPage = 4096;
// Reading through a small gap costs less than another request; mappings of different shards may lie this close, and
// a range that is not mapped between them makes madvise stop, which costs only the hint.
constexpr uintptr_t kGap = 4 * kPage;
constexpr int kSubmitters = 8;
constexpr int64_t kSampled = 16;
constexpr int64_t kSmallest = 1024;  // below this a look at residency costs more than it can save

bool resident(const uint8_t* at) {
  unsigned char in_core = 1;
  auto* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(at) & ~(kPage - 1));
#if defined(__APPLE__)
  char flag = 1;
  const int failed = mincore(page, 1, &flag);
  in_core = static_cast<unsigned char>(flag);
#else
  const int failed = mincore(page, 1, &in_core);
#endif
  return failed != 0 || (in_core & 1) != 0;
}

}  // namespace

const uint8_t* map_file(const std::string& path, uint64_t nbytes) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::system_error(errno, std::generic_category(), path);
  struct stat facts;
  if (::fstat(file, &facts) != 0 || uint64_t(facts.st_size) < nbytes) {
    const int code = EINVAL;
    ::close(file);
    throw std::system_error(code, std::generic_category(), path + " is shorter than the bytes to map");
  }
  void* at = nbytes == 0 ? nullptr : ::mmap(nullptr, nbytes, PROT_READ, MAP_SHARED, file, 0);
  const int code = errno;
  ::close(file);
  if (at == MAP_FAILED) throw std::system_error(code, std::generic_category(), path);
  // Rows are read at random: reading around each fault would fetch pages nobody asked for.
  if (at != nullptr) ::madvise(at, nbytes, MADV_RANDOM);
  return static_cast<const uint8_t*>(at);
}

void unmap_file(const uint8_t* data, uint64_t nbytes) {
  if (data != nullptr) ::munmap(const_cast<uint8_t*>(data), nbytes);
}

void read_ahead(const RowArray& array, int shift, const int64_t* ids, int64_t n) {
  if (n < kSmallest) return;
  const int64_t mask = (int64_t(1) << shift) - 1;
  auto row = [&](int64_t id) { return array.bases[size_t(id >> shift)] + (id & mask) * array.row_bytes; };
  int64_t absent = 0;
  for (int64_t i = 0; i < kSampled; ++i) absent += !resident(row(ids[i * (n / kSampled)]));
  if (absent == 0) return;
  std::vector<uintptr_t> pages;
  pages.reserve(size_t(n) + size_t(n) / 8);
  for (int64_t i = 0; i < n; ++i) {
    const auto first = reinterpret_cast<uintptr_t>(row(ids[i]));
    for (uintptr_t page = first & ~(kPage - 1); page < first + uintptr_t(array.row_bytes); page += kPage)
      pages.push_back(page);
  }
  std::sort(pages.begin(), pages.end());
  std::vector<std::pair<uintptr_t, uintptr_t>> runs;
  for (const uintptr_t page : pages) {
    if (!runs.empty() && page <= runs.back().second + kGap)
      runs.back().second = page + kPage;
    else
      runs.emplace_back(page, page + kPage);
  }
  // Submitting a request costs more than starting the next: several threads keep the device's queue filled.
  parallel_for(int64_t(runs.size()), 256, kSubmitters, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      ::madvise(reinterpret_cast<void*>(runs[size_t(i)].first), runs[size_t(i)].second - runs[size_t(i)].first,
                MADV_WILLNEED);
  });
}

}  // namespace embstore
