// Data-parallel loops over a fixed set of worker threads, or over a runner that the caller supplies.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace nwc {

/// Runs task(user, index, worker) for every index in [0, count), returns when all are done. worker < num_workers
/// identifies the thread, so that the task can use per-worker scratch memory. An exception of a task ends the loop
/// early and leaves run() on the calling thread, once no task runs any more.
class Runner {
 public:
  using Task = void (*)(void* user, uint32_t index, uint32_t worker);
  virtual ~Runner() = default;
  virtual uint32_t num_workers() const = 0;
  virtual void run(uint32_t count, Task task, void* user) = 0;
};

/// num_threads = 0: one per hardware thread. With 1 everything runs on the calling thread. The calling thread works
/// too. Each thread has a contiguous range of the indices, and takes from others' once it is through. For some tens of
/// microseconds after a run threads look for the next one, then they sleep. run() may be called from several threads;
/// calls are served one after another. Not reentrant from inside a task.
std::unique_ptr<Runner> make_thread_pool(uint32_t num_threads);

/// parallel_for(runner, n, [&](uint32_t index, uint32_t worker) { ... })
template <typename F>
void parallel_for(Runner& runner, uint32_t count, F&& f) {
  using Fn = std::remove_reference_t<F>;
  runner.run(
      count, [](void* user, uint32_t index, uint32_t worker) { (*static_cast<Fn*>(user))(index, worker); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace nwc
