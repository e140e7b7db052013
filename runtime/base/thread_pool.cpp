#include "runtime/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "runtime/base/exceptions.h"

namespace nwc {
namespace {

/// So long a thread looks for work, or for the end of it, before it sleeps: what lies between two products of a token
/// takes less, and to wake a thread takes as long again.
constexpr std::chrono::microseconds kSpin{50};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Waits for done() for a short time; what it says at the end.
template <typename F>
bool spin_until(const F& done) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    for (uint32_t i = 0; i < 32; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() - begin < kSpin);
  return done();
}

/// Indices that one worker has before it: it takes them from the front, the others from the back, so that its memory
/// stays in its caches. A cache line of its own.
class alignas(64) Range {
 public:
  void set(uint32_t begin, uint32_t end) { bounds_.store(pack(begin, end), std::memory_order_relaxed); }
  bool take(bool front, uint32_t* index) {
    uint64_t bounds = bounds_.load(std::memory_order_relaxed);
    for (;;) {
      const uint32_t begin = static_cast<uint32_t>(bounds >> 32), end = static_cast<uint32_t>(bounds);
      if (begin >= end) return false;
      const uint64_t left = front ? pack(begin + 1, end) : pack(begin, end - 1);
      if (!bounds_.compare_exchange_weak(bounds, left, std::memory_order_relaxed)) continue;
      *index = front ? begin : end - 1;
      return true;
    }
  }

 private:
  static uint64_t pack(uint32_t begin, uint32_t end) { return uint64_t{begin} << 32 | end; }
  std::atomic<uint64_t> bounds_{0};
};

/// A run is open from its start until its caller finds no index any more. Threads that come in that time join it, those
/// that sleep longer are not waited for. gate_ holds the number of the run, whether it is open, and how many threads
/// besides the caller are in it: all change together.
class ThreadPool : public Runner {
 public:
  explicit ThreadPool(uint32_t num_threads) : num_workers_(num_threads), ranges_(num_threads) {
    threads_.reserve(num_workers_);
    const auto start = [this] {
      for (uint32_t w = 1; w < num_workers_; ++w) threads_.emplace_back([this, w] { work(w); });
    };
    // If the system gives no more threads, the pool works with those that there are.
    guarded(start, [this](StatusCode, const char*) { num_workers_ = static_cast<uint32_t>(threads_.size()) + 1; });
    // With more threads than cores, one that looks for work keeps another from doing it.
    spins_ = num_workers_ <= std::thread::hardware_concurrency();
  }
  ~ThreadPool() override {
    stop_.store(true);
    { std::lock_guard lock(mutex_); }
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
    task_ = task;
    user_ = user;
    for (uint32_t w = 0; w < num_workers_; ++w) ranges_[w].set(share(count, w), share(count, w + 1));
    gate_.store(++number_ * kRun | kOpen);  // nobody is inside: the run before waited for that
    // Either this sees a thread that goes to sleep, or that thread sees the run.
    if (sleeping_.load() != 0) {
      { std::lock_guard lock(mutex_); }
      for (uint32_t i = 1; i < std::min(count, num_workers_); ++i) wake_.notify_one();
    }
    drain(0);
    gate_.fetch_and(~kOpen);
    const auto left = [this] { return (gate_.load() & kInside) == 0; };
    if (!left() && !(spins_.load(std::memory_order_relaxed) && spin_until(left))) {
      std::unique_lock lock(mutex_);
      waits_.store(true);
      done_.wait(lock, left);
      waits_.store(false);
    }
    error_.rethrow();
  }

 private:
  static constexpr uint64_t kInside = 0xffff, kOpen = 0x10000, kRun = 0x20000;

  uint32_t share(uint32_t count, uint32_t worker) const {
    return static_cast<uint32_t>(uint64_t{count} * worker / num_workers_);
  }

  // A task may run out of memory: that must reach the caller of run() instead of ending the process.
  void drain(uint32_t worker) {
    const bool done = error_.run([&] {
      uint32_t index = 0;
      for (uint32_t i = 0; i < num_workers_; ++i) {
        Range& range = ranges_[(worker + i) % num_workers_];
        while (range.take(i == 0, &index)) task_(user_, index, worker);
      }
    });
    if (done) return;
    for (uint32_t w = 0; w < num_workers_; ++w) ranges_[w].set(0, 0);
  }

  /// Joins a run that is open and that this thread was not in.
  bool join(uint64_t* seen) {
    uint64_t gate = gate_.load();
    for (;;) {
      if ((gate & kOpen) == 0 || gate / kRun == *seen) return false;
      if (gate_.compare_exchange_weak(gate, gate + 1)) break;
    }
    *seen = gate / kRun;
    return true;
  }
  void work(uint32_t worker) {
    uint64_t seen = 0;
    bool joined = false, worked = false;
    // Only a thread that has just worked looks for more: a pool without work takes no time.
    const auto ready = [&] { return stop_.load() || (joined = join(&seen)); };
    for (;;) {
      joined = false;
      if (!(worked && spins_.load(std::memory_order_relaxed) && spin_until(ready))) {
        std::unique_lock lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, ready);
        sleeping_.fetch_sub(1);
      }
      if (!joined) return;
      drain(worker);
      worked = true;
      const uint64_t gate = gate_.fetch_sub(1) - 1;
      if ((gate & (kInside | kOpen)) != 0 || !waits_.load()) continue;
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }

  uint32_t num_workers_;
  std::vector<Range> ranges_;
  std::vector<std::thread> threads_;
  std::mutex run_mutex_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  alignas(64) std::atomic<uint64_t> gate_{0};
  std::atomic<uint32_t> sleeping_{0};
  std::atomic<bool> waits_{false}, stop_{false}, spins_{false};
  uint64_t number_ = 0;
  Task task_ = nullptr;
  void* user_ = nullptr;
  CarriedException error_;
};

}  // namespace

std::unique_ptr<Runner> make_thread_pool(uint32_t num_threads) {
  if (num_threads == 0) num_threads = std::max(1u, std::thread::hardware_concurrency());
  return std::make_unique<ThreadPool>(std::min(num_threads, 256u));
}

}  // namespace nwc
