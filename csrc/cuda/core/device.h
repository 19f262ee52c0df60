// What of the CUDA runtime Python needs. Plain C++. Everything but the counts throws Refused where CUDA does.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/core/kernel.h"

namespace embstore::cuda {

struct Refused : std::runtime_error {
  int code;
  Refused(int c, const std::string& what) : std::runtime_error(what), code(c) {}
};

// Both sides of what was found on a machine: why there is no device is in `code` and `what`.
struct Found {
  int devices = 0, driver = 0, runtime = 0, code = 0;
  std::string what;
};
Found find_devices();

struct DeviceFacts {
  std::string name;
  int major = 0, minor = 0, processors = 0;
  int64_t memory = 0, shared_bytes = 0, cache_bytes = 0;
};
DeviceFacts facts_of(int device);

// The device of calls of this thread, as long as this lives.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int device_, before_ = -1;
};

// The device that an address belongs to, -1 for memory of the host.
int device_of(const void* at);

void* allocate(int device, int64_t nbytes);
void release(int device, void* at) noexcept;
// In the order of a stream: neither waits for the device.
void* allocate_on(int device, int64_t nbytes, void* stream);
void release_on(int device, void* at, void* stream) noexcept;

// Memory of the host that devices read over the bus: where it lies for the host, and for the device.
struct Pinned {
  void* host = nullptr;
  void* device = nullptr;
};
Pinned allocate_host(int device, int64_t nbytes);
void release_host(void* host) noexcept;

// A stream beside those of callers.
void* make_stream(int device);
void drop_stream(int device, void* stream) noexcept;
// What comes later on `stream` waits, on its device, for what came before on the other; the host waits for neither.
void follow(int device, void* stream, int other_device, void* other_stream);

// A copy from one device to another, or within one, in the order of a stream of `on`.
void copy_between(int to_device, void* to, int from_device, const void* from, int64_t nbytes, int on, void* stream);
void clear(int device, void* at, int64_t nbytes, void* stream);

// A small copy from or to the host in the order of a stream; waits for it where `to_host`.
void copy(int device, void* to, const void* from, int64_t nbytes, bool to_host, void* stream);
void synchronize(int device);

// Copies to a device through two pinned buffers, one being filled while the other travels.
class Uploader {
 public:
  Uploader(int device, int64_t buffer_bytes);
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;
  void copy(void* to, const void* from, int64_t nbytes);
  void finish();

 private:
  struct Parts;
  Parts* parts_;
};

Target target_of(int device, void* stream);

}  // namespace embstore::cuda
