#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "cuda/core/device.h"
#include "cuda/core/launch.cuh"

namespace embstore::cuda {
namespace {

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

Found find_devices() {
  Found found;
  cudaRuntimeGetVersion(&found.runtime);
  cudaDriverGetVersion(&found.driver);
  const cudaError_t status = cudaGetDeviceCount(&found.devices);
  if (status != cudaSuccess) {
    cudaGetLastError();
    found.devices = 0;
    found.code = int(status);
    found.what = cudaGetErrorString(status);
  }
  return found;
}

DeviceFacts facts_of(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for the device");
  DeviceFacts facts;
  facts.name = properties.name;
  facts.major = properties.major;
  facts.minor = properties.minor;
  facts.processors = properties.multiProcessorCount;
  facts.memory = int64_t(properties.totalGlobalMem);
  facts.shared_bytes = int64_t(properties.sharedMemPerBlockOptin);
  facts.cache_bytes = int64_t(properties.l2CacheSize);
  return facts;
}

OnDevice::OnDevice(int device) : device_(device) {
  if (device < 0) return;
  check(cudaGetDevice(&before_), "asking for the current device");
  if (before_ != device) check(cudaSetDevice(device), "choosing the device");
}

OnDevice::~OnDevice() {
  if (device_ >= 0 && before_ >= 0 && before_ != device_) cudaSetDevice(before_);
}

int device_of(const void* at) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, at), "asking where an array lies");
  const bool there = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return there ? attributes.device : -1;
}

void* allocate(int device, int64_t nbytes) {
  OnDevice on(device);
  void* at = nullptr;
  check(cudaMalloc(&at, size_t(nbytes)), "taking device memory");
  return at;
}

void release(int device, void* at) noexcept {
  try {
    OnDevice on(device);
    cudaFree(at);
  } catch (const Refused&) {  // the process is ending, and its memory with it
  }
}

void* allocate_on(int device, int64_t nbytes, void* stream) {
  OnDevice on(device);
  void* at = nullptr;
  check(cudaMallocAsync(&at, size_t(nbytes), as_stream(stream)), "taking device memory");
  return at;
}

void release_on(int device, void* at, void* stream) noexcept {
  try {
    OnDevice on(device);
    cudaFreeAsync(at, as_stream(stream));
  } catch (const Refused&) {
  }
}

Pinned allocate_host(int device, int64_t nbytes) {
  OnDevice on(device);
  Pinned at;
  check(cudaHostAlloc(&at.host, size_t(nbytes), cudaHostAllocPortable | cudaHostAllocMapped), "pinning host memory");
  const cudaError_t status = cudaHostGetDevicePointer(&at.device, at.host, 0);
  if (status != cudaSuccess) {
    cudaFreeHost(at.host);
    check(status, "mapping host memory");
  }
  return at;
}

void release_host(void* host) noexcept { cudaFreeHost(host); }

void* make_stream(int device) {
  OnDevice on(device);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  return stream;
}

void drop_stream(int device, void* stream) noexcept {
  try {
    OnDevice on(device);
    cudaStreamDestroy(as_stream(stream));
  } catch (const Refused&) {  // as in release
  }
}

void follow(int device, void* stream, int other_device, void* other_stream) {
  cudaEvent_t reached = nullptr;
  {
    OnDevice on(other_device);
    check(cudaEventCreateWithFlags(&reached, cudaEventDisableTiming), "making an event");
    const cudaError_t status = cudaEventRecord(reached, as_stream(other_stream));
    if (status != cudaSuccess) cudaEventDestroy(reached);
    check(status, "marking a stream");
  }
  OnDevice on(device);
  const cudaError_t status = cudaStreamWaitEvent(as_stream(stream), reached, 0);
  cudaEventDestroy(reached);  // what waits for it keeps it
  check(status, "following a stream");
}

void copy_between(int to_device, void* to, int from_device, const void* from, int64_t nbytes, int on, void* stream) {
  OnDevice there(on);
  check(cudaMemcpyPeerAsync(to, to_device, from, from_device, size_t(nbytes), as_stream(stream)),
        "copying between devices");
}

void clear(int device, void* at, int64_t nbytes, void* stream) {
  OnDevice on(device);
  check(cudaMemsetAsync(at, 0, size_t(nbytes), as_stream(stream)), "clearing memory");
}

void copy(int device, void* to, const void* from, int64_t nbytes, bool to_host, void* stream) {
  OnDevice on(device);
  const auto kind = to_host ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice;
  check(cudaMemcpyAsync(to, from, size_t(nbytes), kind, as_stream(stream)), "copying");
  if (to_host) check(cudaStreamSynchronize(as_stream(stream)), "waiting for a copy");
}

void synchronize(int device) {
  OnDevice on(device);
  check(cudaDeviceSynchronize(), "waiting for the device");
}

struct Uploader::Parts {
  int device;
  int64_t size;
  cudaStream_t stream = nullptr;
  void* buffers[2] = {};
  cudaEvent_t free[2] = {};
  int turn = 0;

  void close() {
    if (stream != nullptr) cudaStreamSynchronize(stream);
    for (int k = 0; k < 2; ++k) {
      if (free[k] != nullptr) cudaEventDestroy(free[k]);
      if (buffers[k] != nullptr) cudaFreeHost(buffers[k]);
    }
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

Uploader::Uploader(int device, int64_t buffer_bytes) : parts_(new Parts{device, buffer_bytes}) {
  try {
    OnDevice on(device);
    check(cudaStreamCreateWithFlags(&parts_->stream, cudaStreamNonBlocking), "making a stream");
    for (int k = 0; k < 2; ++k) {
      check(cudaHostAlloc(&parts_->buffers[k], size_t(buffer_bytes), cudaHostAllocDefault), "pinning host memory");
      check(cudaEventCreateWithFlags(&parts_->free[k], cudaEventDisableTiming), "making an event");
    }
  } catch (...) {
    parts_->close();
    delete parts_;
    throw;
  }
}

Uploader::~Uploader() {
  try {
    OnDevice on(parts_->device);
    parts_->close();
  } catch (const Refused&) {
  }
  delete parts_;
}

void Uploader::copy(void* to, const void* from, int64_t nbytes) {
  OnDevice on(parts_->device);
  for (int64_t at = 0; at < nbytes; at += parts_->size) {
    const int64_t n = std::min(parts_->size, nbytes - at);
    const int k = parts_->turn++ % 2;
    check(cudaEventSynchronize(parts_->free[k]), "waiting for a copy");
    std::memcpy(parts_->buffers[k], static_cast<const char*>(from) + at, size_t(n));
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, parts_->buffers[k], size_t(n), cudaMemcpyHostToDevice,
                          parts_->stream),
          "copying to the device");
    check(cudaEventRecord(parts_->free[k], parts_->stream), "marking a copy");
  }
}

void Uploader::finish() {
  OnDevice on(parts_->device);
  check(cudaStreamSynchronize(parts_->stream), "waiting for a copy");
}

Target target_of(int device, void* stream) {
  Target target;
  target.device = device;
  target.stream = stream;
  if (device < 0) return target;
  static std::mutex lock;
  static std::map<int, int> processors;  // asking a device takes longer than a launch
  std::lock_guard<std::mutex> locked(lock);
  auto at = processors.find(device);
  if (at == processors.end()) {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "asking for the device");
    at = processors.emplace(device, count).first;
  }
  target.processors = at->second;
  return target;
}

}  // namespace embstore::cuda
