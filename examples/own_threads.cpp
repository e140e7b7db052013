// own_threads <model.nwc>: decoding on the threads that a program has already. The library makes none of its own.
#include <nwc/nwc.h>

#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

namespace {

/// A minimal pool: all threads take indices of one job until none is left.
class Pool {
 public:
  explicit Pool(uint32_t workers) {
    for (uint32_t w = 0; w < workers; ++w) threads_.emplace_back([this, w] { work(w); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  /// What nwc_runner::run has to be.
  static void run(void* user, uint32_t count, nwc_task task, void* data) {
    static_cast<Pool*>(user)->run_job(count, task, data);
  }
  uint64_t tasks() const { return tasks_; }

 private:
  void run_job(uint32_t count, nwc_task task, void* data) {
    std::unique_lock lock(mutex_);
    task_ = task;
    data_ = data;
    count_ = count;
    next_ = done_ = 0;
    wake_.notify_all();
    finished_.wait(lock, [this] { return done_ == count_; });
    tasks_ += count;
    count_ = next_ = 0;
  }
  void work(uint32_t worker) {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ends_ || next_ < count_; });
      if (ends_) return;
      const uint32_t index = next_++;
      lock.unlock();
      task_(data_, index, worker);  // calls with the same worker never overlap: each thread has its own number
      lock.lock();
      if (++done_ == count_) finished_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  std::vector<std::thread> threads_;
  nwc_task task_ = nullptr;
  void* data_ = nullptr;
  uint32_t count_ = 0, next_ = 0, done_ = 0;
  uint64_t tasks_ = 0;
  bool ends_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s <model.nwc>\n", argv[0]), 2;
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* model = nullptr;
  if (nwc_model_open_path(argv[1], &error, &model) != NWC_STATUS_OK) return std::fprintf(stderr, "%s\n", why), 1;

  constexpr uint32_t kWorkers = 3;
  Pool pool(kWorkers);
  const nwc_runner runner = {&pool, kWorkers, Pool::run};
  nwc_decoder_params params;
  nwc_decoder_params_init(&params);
  params.backend = NWC_BACKEND_CPU;
  params.runner = &runner;
  nwc_decoder* decoder = nullptr;
  int result = 0;
  if (nwc_decoder_create(model, &params, &error, &decoder) != NWC_STATUS_OK) {
    std::fprintf(stderr, "%s\n", why);
    result = 1;
  }
  nwc_model_info info;
  nwc_model_info_init(&info);
  nwc_model_get_info(model, &info);
  uint64_t weights = 0;
  for (uint32_t t = 0; t < info.num_tensors && result == 0; ++t) {
    nwc_tensor_info tensor;
    nwc_tensor_info_init(&tensor);
    nwc_model_tensor(model, t, &tensor);
    if (tensor.storage != NWC_STORAGE_CODED) continue;
    std::vector<float> out(static_cast<size_t>(tensor.rows * tensor.cols));
    if (nwc_decoder_decode_tensor(decoder, t, NWC_DTYPE_F32, nullptr, nullptr, out.data(),
                                  out.size() * sizeof(float)) != NWC_STATUS_OK) {
      std::fprintf(stderr, "%s\n", nwc_decoder_last_error(decoder));
      result = 1;
    }
    weights += out.size();
  }
  if (result == 0)
    std::printf("%llu weights, decoded in %llu tasks on %u threads of the program\n",
                static_cast<unsigned long long>(weights), static_cast<unsigned long long>(pool.tasks()), kWorkers);
  nwc_decoder_destroy(decoder);
  nwc_model_destroy(model);
  return result;
}
