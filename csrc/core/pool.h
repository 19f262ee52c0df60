// A small thread pool: the caller works too, so a call never waits for a worker to become free.
#pragma once
#include <cstdint>
#include <functional>

namespace embstore {

// Runs body(first, last) over [0, n) cut into pieces of at least `grain`, on at most `threads` threads.
// Safe to call from many threads at once and after fork; body must not throw.
void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body);

}  // namespace embstore
