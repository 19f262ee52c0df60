#include "core/map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "core/pool.h"
#include "core/table.h"

namespace embstore {
namespace {

const uintptr_t kPage = uintptr_t(::sysconf(_SC_PAGESIZE));
// A request costs a device about as much as two more pages of one it has begun. Ranges of different mappings may lie
// this close too; where nothing is mapped between them madvise goes on behind the hole.
const uintptr_t kGap = 2 * kPage;
// The kernel cuts a longer wish to its read-ahead window, without a word; 128 KiB is the smallest window in use.
constexpr uintptr_t kLongest = 128 << 10;
constexpr int kSubmitters = 8;
// Pages asked for before the first of them is waited for. Times kSubmitters this fills the queue of any disk.
constexpr int64_t kInFlight = 64;
constexpr int64_t kAtOnce = 1 << 20;  // ids planned together; bounds the plan's memory
constexpr int64_t kPerSample = 1024, kMostSamples = 16;
constexpr int64_t kSmallest = kPerSample;  // below this looking for absent pages costs more than it can save

void touch(const uint8_t* at) { (void)*static_cast<const volatile uint8_t*>(at); }

// Faults so far that waited for a disk: of this thread where the system tells them apart.
int64_t disk_faults() {
#ifdef RUSAGE_THREAD
  constexpr int kWhose = RUSAGE_THREAD;
#else
  constexpr int kWhose = RUSAGE_SELF;
#endif
  struct rusage usage;
  return ::getrusage(kWhose, &usage) == 0 ? int64_t(usage.ru_majflt) : 0;
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

MappedShards::~MappedShards() {
  for (const Rows& rows : shards_) unmap_file(rows.data, rows.nbytes);
}

int64_t MappedShards::extend(int64_t count, uint64_t nbytes, const std::string& index) {
  const int directory = ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return 0;
  std::string found(index.size(), '\0');
  int64_t mapped = 0;
  for (; mapped < count; ++mapped) {
    const int file = ::openat(directory, (std::to_string(shards_.size()) + suffix_).c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) break;
    struct stat facts;
    // Read, not mapped: touching one page of a mapping makes its neighbours resident as well.
    const bool good = ::fstat(file, &facts) == 0 && uint64_t(facts.st_size) == nbytes + index.size() &&
                      ::pread(file, &found[0], found.size(), off_t(nbytes)) == ssize_t(found.size()) && found == index;
    void* at = good ? ::mmap(nullptr, nbytes, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
    ::close(file);
    if (at == MAP_FAILED) break;
    ::madvise(at, nbytes, MADV_RANDOM);
    shards_.push_back({static_cast<const uint8_t*>(at), nbytes});
  }
  ::close(directory);
  return mapped;
}

namespace {

// Asks for sorted pages[first, last), near ones in one request, and touches each once its request had time to end: the
// caller then finds it mapped, and the device's queue stays full without a thread for each request.
void read_pages(const uintptr_t* pages, int64_t first, int64_t last) {
  int64_t touched = first;
  const auto touch_until = [&](int64_t end) {
    for (; touched < end; ++touched) touch(reinterpret_cast<const uint8_t*>(pages[touched]));
  };
  for (int64_t i = first; i < last;) {
    const uintptr_t begin = pages[i];
    uintptr_t end = begin + kPage;
    for (++i; i < last && pages[i] <= end + kGap && pages[i] + kPage <= begin + kLongest; ++i) end = pages[i] + kPage;
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
    touch_until(i - kInFlight);
  }
  touch_until(last);
}

}  // namespace

void read_ahead(const std::map<std::string, RowArray>& rows, int shift, const int64_t* ids, int64_t n) {
  if (n < kSmallest) return;
  const int64_t mask = (int64_t(1) << shift) - 1;
  const auto row = [&](const RowArray& array, int64_t id) {
    return array.bases[size_t(id >> shift)] + (id & mask) * array.row_bytes;
  };
  // Reading a few rows and looking for faults costs a hot batch less than a mincore for each of them.
  const int64_t samples = std::min(n / kPerSample, kMostSamples), before = disk_faults();
  for (const auto& [name, array] : rows)
    for (int64_t i = 0; i < samples; ++i) touch(row(array, ids[i * (n / samples)]));
  if (disk_faults() == before) return;
  std::vector<uintptr_t> pages;
  pages.reserve(size_t(std::min(n, kAtOnce)) * rows.size());
  for (int64_t done = 0; done < n; done += kAtOnce) {
    pages.clear();
    for (const auto& [name, array] : rows)
      for (int64_t i = done; i < std::min(n, done + kAtOnce); ++i) {
        const auto first = reinterpret_cast<uintptr_t>(row(array, ids[i]));
        for (uintptr_t page = first & ~(kPage - 1); page < first + uintptr_t(array.row_bytes); page += kPage)
          pages.push_back(page);
      }
    std::sort(pages.begin(), pages.end());
    pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
    parallel_for(int64_t(pages.size()), 256, kSubmitters,
                 [&](int64_t first, int64_t last) { read_pages(pages.data(), first, last); });
  }
}

}  // namespace embstore
