// Error texts are kept by thread: never more than there are living threads, however many there have been.
#include <gtest/gtest.h>

#include <atomic>

#include "runtime/c_api/handles.h"

namespace nwc::c_api {
namespace {

TEST(ErrorStore, ForgetsThreadsThatHaveEnded) {
  ErrorStore store;
  store.set("mine");
  const char* const mine = store.get();
  for (int i = 0; i < 1000; ++i) {
    std::thread other([&] {
      EXPECT_STREQ(store.get(), "") << "another thread's text";
      store.set("other");
      EXPECT_STREQ(store.get(), "other");
    });
    other.join();
    ASSERT_LE(store.size(), 2u);
  }
  EXPECT_EQ(store.get(), mine) << "valid while the thread lives";
  EXPECT_STREQ(mine, "mine");
}

TEST(ErrorStore, ThreadsThatLiveKeepTheirTexts) {
  ErrorStore store;
  constexpr int kThreads = 20;
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      store.set(std::to_string(i).c_str());
      const char* const text = store.get();
      for (++failed; failed < kThreads;) std::this_thread::yield();
      EXPECT_EQ(store.get(), text);
      EXPECT_EQ(text, std::to_string(i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  store.set("last");
  EXPECT_EQ(store.size(), 1u);
}

}  // namespace
}  // namespace nwc::c_api
