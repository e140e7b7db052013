// Which experts stay in memory.
#include <gtest/gtest.h>

#include <list>
#include <random>

#include "runtime/engine/expert_cache.h"

namespace nwc {
namespace {

TEST(ExpertCache, WhatWasUsedLongestAgoMakesWay) {
  ExpertCache cache(10, 3);
  for (const uint64_t expert : {4u, 7u, 9u}) cache.place(expert);
  cache.touch(cache.find(4));
  cache.place(1);
  EXPECT_EQ(cache.find(7), ExpertCache::kNone);
  for (const uint64_t expert : {4u, 9u, 1u}) EXPECT_NE(cache.find(expert), ExpertCache::kNone) << expert;
}

TEST(ExpertCache, WhatCouldNotBeDecodedMakesWayFirst) {
  ExpertCache cache(10, 3);
  for (const uint64_t expert : {4u, 7u, 9u}) cache.place(expert);
  const uint32_t slot = cache.find(9);
  cache.drop(9);
  cache.drop(9);
  EXPECT_EQ(cache.find(9), ExpertCache::kNone);
  EXPECT_EQ(cache.place(2), slot);
  for (const uint64_t expert : {4u, 7u, 2u}) EXPECT_NE(cache.find(expert), ExpertCache::kNone) << expert;
}

/// Against a list that is searched from end to end.
TEST(ExpertCache, AgreesWithAList) {
  constexpr uint64_t kExperts = 40;
  for (const uint32_t slots : {1u, 2u, 7u, 40u}) {
    ExpertCache cache(kExperts, slots);
    std::list<uint64_t> newest_first;
    std::mt19937 random(slots);
    for (int i = 0; i < 5000; ++i) {
      const uint64_t expert = random() % kExperts;
      const auto at = std::find(newest_first.begin(), newest_first.end(), expert);
      ASSERT_EQ(at != newest_first.end(), cache.find(expert) != ExpertCache::kNone) << i;
      if (at != newest_first.end() && random() % 16 == 0) {
        cache.drop(expert);
        newest_first.erase(at);
        continue;
      }
      if (at != newest_first.end()) {
        cache.touch(cache.find(expert));
        newest_first.erase(at);
      } else {
        cache.place(expert);
        if (newest_first.size() == slots) newest_first.pop_back();
      }
      newest_first.push_front(expert);
    }
  }
}

}  // namespace
}  // namespace nwc
