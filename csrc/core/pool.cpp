#include "core/pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace embstore {
namespace {

struct Job {
  const std::function<void(int64_t, int64_t)>* body;
  int64_t n, piece;
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::condition_variable finished;
  int helpers = 0;      // workers inside run(), guarded by mutex
  bool closed = false;  // the caller has taken the last piece; late workers must not touch body

  void run() {
    for (;;) {
      const int64_t first = next.fetch_add(piece);
      if (first >= n) return;
      (*body)(first, std::min(n, first + piece));
    }
  }
};

class Pool {
 public:
  void offer(const std::shared_ptr<Job>& job, int helpers) {
    std::lock_guard<std::mutex> lock(mutex_);
    while (workers_ < helpers) {
      std::thread([this] { work(); }).detach();
      ++workers_;
    }
    for (int i = 0; i < helpers; ++i) jobs_.push_back(job);
    ready_.notify_all();
  }

 private:
  void work() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ready_.wait(lock, [this] { return !jobs_.empty(); });
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      {
        std::lock_guard<std::mutex> lock(job->mutex);
        if (job->closed) continue;
        ++job->helpers;
      }
      job->run();
      std::lock_guard<std::mutex> lock(job->mutex);
      if (--job->helpers == 0) job->finished.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Job>> jobs_;
  int workers_ = 0;
};

Pool* pool = nullptr;
std::mutex* pool_mutex = new std::mutex;

// A forked child has none of the workers and may have inherited held locks: it starts over, leaking the old pool.
void after_fork() {
  pool = nullptr;
  pool_mutex = new std::mutex;
}

Pool& the_pool() {
  std::lock_guard<std::mutex> lock(*pool_mutex);
  if (pool == nullptr) {
    static const int registered = pthread_atfork(nullptr, nullptr, after_fork);
    (void)registered;
    pool = new Pool;  // never destroyed: detached workers may outlive main
  }
  return *pool;
}

}  // namespace

void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  const int64_t pieces = std::min<int64_t>(std::max<int64_t>(1, n / std::max<int64_t>(1, grain)), 8 * int64_t(threads));
  if (threads <= 1 || pieces <= 1) {
    body(0, n);
    return;
  }
  auto job = std::make_shared<Job>();
  job->body = &body;
  job->n = n;
  job->piece = (n + pieces - 1) / pieces;
  the_pool().offer(job, int(std::min<int64_t>(threads, pieces)) - 1);
  job->run();
  std::unique_lock<std::mutex> lock(job->mutex);
  job->closed = true;
  job->finished.wait(lock, [&] { return job->helpers == 0; });
}

}  // namespace embstore
