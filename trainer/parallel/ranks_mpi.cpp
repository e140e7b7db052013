// Ranks over MPI: the only file that includes mpi.h.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <list>
#include <mutex>
#include <thread>

#include "trainer/parallel/launch.h"
#include "trainer/parallel/ranks.h"

namespace nwc {
namespace {

constexpr uint64_t kMostPiece = uint64_t{1} << 30;     ///< MPI counts with an int
constexpr uint64_t kMostOnTheWay = uint64_t{1} << 30;  ///< bytes, besides one message
constexpr int kTag = 0;

/// Waiting polls and sleeps in between. MPI's own waits keep a core busy, and know nothing of signals. Errors of MPI
/// end all ranks, which is its default.
class MpiRanks final : public Ranks {
 public:
  explicit MpiRanks(std::function<bool()> stop) : stop_(std::move(stop)) {
    int given = MPI_THREAD_SINGLE, number = 0, count = 1, length = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &given);
    MPI_Comm_rank(MPI_COMM_WORLD, &number);
    MPI_Comm_size(MPI_COMM_WORLD, &count);
    char name[MPI_MAX_PROCESSOR_NAME + 1] = {};
    MPI_Get_processor_name(name, &length);
    host_ = name;
    rank_ = static_cast<uint32_t>(number);
    size_ = static_cast<uint32_t>(count);
    // Large messages move only while their sender calls MPI: a thread does, as the others compute.
    if (given >= MPI_THREAD_SERIALIZED && size_ > 1) pump_ = std::thread([this] { pump(); });
  }
  ~MpiRanks() override {
    MPI_Request all = MPI_REQUEST_NULL;
    (void)wait([this] { return reap(); }, false);
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
      MPI_Ibarrier(MPI_COMM_WORLD, &all);
    }
    changed_.notify_all();
    if (pump_.joinable()) pump_.join();
    (void)wait([&] { return is_done(&all); }, false);
    MPI_Finalize();
  }
  MpiRanks(const MpiRanks&) = delete;
  MpiRanks& operator=(const MpiRanks&) = delete;

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }
  std::string host() const override { return host_; }

  Status send(uint32_t to, std::vector<uint8_t> bytes) override {
    {
      const std::lock_guard lock(mutex_);
      Outgoing& out = outgoing_.emplace_back();
      out.bytes = std::move(bytes);
      out.size = out.bytes.size();
      on_the_way_ += out.size;
      MPI_Isend(&out.size, sizeof out.size, MPI_BYTE, static_cast<int>(to), kTag, MPI_COMM_WORLD,
                &out.requests.emplace_back());
      for (uint64_t at = 0; at < out.size; at += kMostPiece) {
        MPI_Isend(out.bytes.data() + at, static_cast<int>(std::min(kMostPiece, out.size - at)), MPI_BYTE,
                  static_cast<int>(to), kTag, MPI_COMM_WORLD, &out.requests.emplace_back());
      }
    }
    changed_.notify_all();
    return wait([this] { return reap() || on_the_way_ <= kMostOnTheWay || outgoing_.size() == 1; }, true);
  }

  Result<std::vector<uint8_t>> receive(uint32_t from) override {
    // A member, because a receive that is given up may still write to it.
    NWC_TRY(receive_into(from, &incoming_size_, sizeof incoming_size_));
    incoming_.resize(static_cast<size_t>(incoming_size_));
    for (uint64_t at = 0; at < incoming_size_; at += kMostPiece)
      NWC_TRY(receive_into(from, incoming_.data() + at, std::min(kMostPiece, incoming_size_ - at)));
    return std::move(incoming_);
  }

  void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  struct Outgoing {
    std::vector<uint8_t> bytes;
    uint64_t size = 0;
    std::vector<MPI_Request> requests;
  };

  static bool is_done(MPI_Request* request) {
    int done = 0;
    MPI_Test(request, &done, MPI_STATUS_IGNORE);
    return done != 0;
  }

  Status receive_into(uint32_t from, void* bytes, uint64_t count) {
    MPI_Request request = MPI_REQUEST_NULL;
    {
      const std::lock_guard lock(mutex_);
      MPI_Irecv(bytes, static_cast<int>(count), MPI_BYTE, static_cast<int>(from), kTag, MPI_COMM_WORLD, &request);
    }
    return wait([&] { return is_done(&request); }, true);
  }

  /// Forgets what has arrived. Returns whether that is all. The caller holds the lock.
  bool reap() {
    for (auto at = outgoing_.begin(); at != outgoing_.end();) {
      int done = 0;
      MPI_Testall(static_cast<int>(at->requests.size()), at->requests.data(), &done, MPI_STATUSES_IGNORE);
      if (done != 0) on_the_way_ -= at->size;
      at = done != 0 ? outgoing_.erase(at) : std::next(at);
    }
    return outgoing_.empty();
  }

  template <typename Done>
  Status wait(const Done& done, bool stoppable) {
    constexpr uint32_t kEager = 64;
    for (uint32_t tries = 0;; ++tries) {
      {
        const std::lock_guard lock(mutex_);
        if (done()) return {};
      }
      if (stoppable && stop_ && stop_())
        return Status(StatusCode::kCancelled, "cancelled while waiting for other ranks");
      if (tries < kEager) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(std::min(2000u, 20 * (tries - kEager))));
      }
    }
  }

  void pump() {
    std::unique_lock lock(mutex_);
    while (!ending_) {
      if (reap()) {
        changed_.wait(lock);
        continue;
      }
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      lock.lock();
    }
  }

  const std::function<bool()> stop_;
  uint32_t rank_ = 0, size_ = 1;
  std::string host_;
  std::mutex mutex_;  ///< of everything below, and of MPI
  std::condition_variable changed_;
  std::list<Outgoing> outgoing_;
  uint64_t on_the_way_ = 0;
  bool ending_ = false;
  std::thread pump_;
  std::vector<uint8_t> incoming_;
  uint64_t incoming_size_ = 0;
};

}  // namespace

Result<std::unique_ptr<Ranks>> join_ranks(std::function<bool()> stop) {
  const uint32_t launched = launched_ranks();
  if (launched == 1) return std::make_unique<Ranks>();
  auto ranks = std::make_unique<MpiRanks>(std::move(stop));
  // Each would do all of the work, and replace the others' output.
  if (ranks->size() == 1)
    return unsupported("the launcher has started " + std::to_string(launched) +
                       " processes that this build's MPI knows nothing of; use its own mpirun, or srun --mpi=pmix");
  return std::unique_ptr<Ranks>(std::move(ranks));
}

}  // namespace nwc
