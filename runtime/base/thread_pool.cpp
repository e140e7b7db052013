#include "runtime/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/base/exceptions.h"

namespace nwc {
namespace {

class ThreadPool : public Runner {
 public:
  explicit ThreadPool(uint32_t num_threads) : num_workers_(num_threads) {
    threads_.reserve(num_workers_);
    const auto start = [this] {
      for (uint32_t w = 1; w < num_workers_; ++w) threads_.emplace_back([this, w] { work(w); });
    };
    // If the system gives no more threads, the pool works with those that there are.
    guarded(start, [this](StatusCode, const char*) { num_workers_ = static_cast<uint32_t>(threads_.size()) + 1; });
  }
  ~ThreadPool() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  uint32_t num_workers() const override { return num_workers_; }

  void run(uint32_t count, Task task, void* user) override {
    if (count == 0) return;
    std::lock_guard serial(run_mutex_);
    if (num_workers_ == 1 || count == 1) {
      for (uint32_t i = 0; i < count; ++i) task(user, i, 0);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      task_ = task;
      user_ = user;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      active_ = num_workers_ - 1;
      ++generation_;
    }
    wake_.notify_all();
    drain(0);
    {
      std::unique_lock lock(mutex_);
      done_.wait(lock, [this] { return active_ == 0; });
    }
    error_.rethrow();
  }

 private:
  // A task may run out of memory: that must reach the caller of run() instead of ending the process.
  void drain(uint32_t worker) {
    const bool done = error_.run([&] {
      for (uint32_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(user_, i, worker);
    });
    if (!done) next_.store(count_, std::memory_order_relaxed);
  }
  void work(uint32_t worker) {
    uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
        if (stop_) return;
        seen = generation_;
      }
      drain(worker);
      std::lock_guard lock(mutex_);
      if (--active_ == 0) done_.notify_one();
    }
  }

  uint32_t num_workers_;
  std::vector<std::thread> threads_;
  std::mutex run_mutex_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint32_t> next_{0};
  Task task_ = nullptr;
  void* user_ = nullptr;
  uint32_t count_ = 0;
  uint32_t active_ = 0;
  uint64_t generation_ = 0;
  CarriedException error_;
  bool stop_ = false;
};

}  // namespace

std::unique_ptr<Runner> make_thread_pool(uint32_t num_threads) {
  if (num_threads == 0) num_threads = std::max(1u, std::thread::hardware_concurrency());
  return std::make_unique<ThreadPool>(std::min(num_threads, 256u));
}

}  // namespace nwc
