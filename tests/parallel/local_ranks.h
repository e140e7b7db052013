// Ranks that are threads of one process, for tests.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "trainer/parallel/ranks.h"

namespace nwc::testing {

class LocalRanks final : public Ranks {
 public:
  /// The messages on their way, of all ranks.
  struct Mail {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::pair<uint32_t, uint32_t>, std::deque<std::vector<uint8_t>>> queues;  ///< by sender and receiver
  };

  LocalRanks(Mail* mail, uint32_t rank, uint32_t size) : mail_(*mail), rank_(rank), size_(size) {}
  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }

  Status send(uint32_t to, std::vector<uint8_t> bytes) override {
    {
      const std::lock_guard lock(mail_.mutex);
      mail_.queues[{rank_, to}].push_back(std::move(bytes));
    }
    mail_.changed.notify_all();
    return {};
  }
  Result<std::vector<uint8_t>> receive(uint32_t from) override {
    std::unique_lock lock(mail_.mutex);
    auto& queue = mail_.queues[{from, rank_}];
    mail_.changed.wait(lock, [&] { return !queue.empty(); });
    std::vector<uint8_t> bytes = std::move(queue.front());
    queue.pop_front();
    return bytes;
  }

 private:
  Mail& mail_;
  const uint32_t rank_, size_;
};

/// Runs `body` as so many ranks and waits for all of them.
inline void run_as_ranks(uint32_t size, const std::function<void(Ranks&)>& body) {
  LocalRanks::Mail mail;
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      LocalRanks ranks(&mail, rank, size);
      body(ranks);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& [from_to, queue] : mail.queues) {
    if (!queue.empty()) std::abort();  // what nobody receives
  }
}

}  // namespace nwc::testing
