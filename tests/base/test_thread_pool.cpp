#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/base/thread_pool.h"

namespace nwc {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<uint32_t> {};

TEST_P(ThreadPoolTest, EveryIndexRunsOnce) {
  const auto pool = make_thread_pool(GetParam());
  ASSERT_GE(pool->num_workers(), 1u);
  for (const uint32_t count : {0u, 1u, 2u, 3u, 17u, 1000u}) {
    std::vector<std::atomic<uint32_t>> runs(count);
    std::atomic<bool> bad_worker{false};
    parallel_for(*pool, count, [&](uint32_t index, uint32_t worker) {
      runs[index].fetch_add(1);
      if (worker >= pool->num_workers()) bad_worker = true;
    });
    for (uint32_t i = 0; i < count; ++i) EXPECT_EQ(runs[i].load(), 1u) << i << " of " << count;
    EXPECT_FALSE(bad_worker);
  }
}

// Two tasks with the same worker number at once would share scratch memory.
TEST_P(ThreadPoolTest, WorkersDoNotOverlap) {
  const auto pool = make_thread_pool(GetParam());
  std::vector<std::atomic<int>> busy(pool->num_workers());
  std::atomic<bool> overlap{false};
  parallel_for(*pool, 2000, [&](uint32_t, uint32_t worker) {
    if (busy[worker].fetch_add(1) != 0) overlap = true;
    std::this_thread::yield();
    busy[worker].fetch_sub(1);
  });
  EXPECT_FALSE(overlap);
}

TEST_P(ThreadPoolTest, CallsFromSeveralThreadsAreServedOneAfterAnother) {
  const auto pool = make_thread_pool(GetParam());
  std::atomic<uint64_t> sum{0};
  std::vector<std::thread> callers;
  callers.reserve(4);
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) parallel_for(*pool, 20, [&](uint32_t i, uint32_t) { sum += i; });
    });
  }
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(sum.load(), 4u * 50 * 190);
}

TEST_P(ThreadPoolTest, ExceptionsReachTheCallerAndThePoolGoesOn) {
  const auto pool = make_thread_pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    EXPECT_THROW(parallel_for(*pool, 100,
                              [](uint32_t index, uint32_t) {
                                if (index % 10 == 3) throw std::bad_alloc();
                              }),
                 std::bad_alloc);
    std::atomic<uint32_t> runs{0};
    parallel_for(*pool, 100, [&](uint32_t, uint32_t) { ++runs; });
    EXPECT_EQ(runs.load(), 100u);
  }
}

// Runs right after one another meet threads that look for work, runs after a pause threads that sleep, and threads that
// wake up late a run that is over.
TEST_P(ThreadPoolTest, ManyShortRunsAtAnyPace) {
  const auto pool = make_thread_pool(GetParam());
  std::vector<uint32_t> plain(64);
  for (uint32_t round = 0; round < 3000; ++round) {
    const uint32_t count = 1 + round % 64;
    parallel_for(*pool, count, [&](uint32_t i, uint32_t) { ++plain[i]; });
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::microseconds(round / 10));
  }
  uint32_t sum = 0, expected = 0;
  for (const uint32_t n : plain) sum += n;
  for (uint32_t round = 0; round < 3000; ++round) expected += 1 + round % 64;
  EXPECT_EQ(sum, expected);
}

// One long task at the front of a worker's share: the others take the rest of it.
TEST_P(ThreadPoolTest, SharesAreTakenOver) {
  const auto pool = make_thread_pool(GetParam());
  if (pool->num_workers() < 2) GTEST_SKIP() << "nobody to take over";
  std::atomic<uint32_t> others{0};
  parallel_for(*pool, 200, [&](uint32_t i, uint32_t) {
    if (i != 0) return void(++others);
    const auto begin = std::chrono::steady_clock::now();
    while (others != 199 && std::chrono::steady_clock::now() - begin < std::chrono::seconds(20)) {
      std::this_thread::yield();
    }
    EXPECT_EQ(others.load(), 199u) << "the share of a busy worker was left lying";
  });
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1u, 2u, 5u, 0u));

TEST(ThreadPool, SingleThreadedPoolsRunOnTheCaller) {
  const auto pool = make_thread_pool(1);
  EXPECT_EQ(pool->num_workers(), 1u);
  const std::thread::id caller = std::this_thread::get_id();
  parallel_for(*pool, 10, [&](uint32_t, uint32_t worker) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(worker, 0u);
  });
}

TEST(ThreadPool, TheNumberOfThreadsIsBounded) { EXPECT_LE(make_thread_pool(UINT32_MAX)->num_workers(), 256u); }

}  // namespace
}  // namespace nwc
