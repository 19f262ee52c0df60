#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace embstore {

// A read-only shared mapping of the first nbytes of a file; no descriptor is kept. Throws std::system_error.
const uint8_t* map_file(const std::string& path, uint64_t nbytes);
void unmap_file(const uint8_t* data, uint64_t nbytes);

// The shard files of one rows array, mapped as long as this lives; their indexes are checked and not mapped.
class MappedShards {
 public:
  // Shard k is the file `directory`/k`suffix`.
  MappedShards(std::string directory, std::string suffix)
      : directory_(std::move(directory)), suffix_(std::move(suffix)) {}
  MappedShards(const MappedShards&) = delete;
  MappedShards& operator=(const MappedShards&) = delete;
  ~MappedShards();

  // Maps the next `count` shards, each of exactly `nbytes` of rows followed by `index`. Stops at the first that is
  // not there, not so, or cannot be mapped, and returns how many were mapped; what is wrong is for the caller to find.
  int64_t extend(int64_t count, uint64_t nbytes, const std::string& index);

  struct Rows {
    const uint8_t* data;
    uint64_t nbytes;
  };
  const Rows& at(size_t shard) const { return shards_.at(shard); }
  size_t size() const { return shards_.size(); }

 private:
  std::string directory_, suffix_;
  std::vector<Rows> shards_;
};

// Reads the pages of the given rows into memory when a sample of them is not there, so that a cold batch is read with
// many requests in flight instead of one page fault after the other. Costs a hot batch two system calls.
struct RowArray;
void read_ahead(const std::map<std::string, RowArray>& rows, int shift, const int64_t* ids, int64_t n);

}  // namespace embstore
