// What is built on sending and receiving: broadcast, gather, shared values.
#include <gtest/gtest.h>

#include "tests/parallel/local_ranks.h"
#include "trainer/parallel/message.h"

namespace nwc {
namespace {

TEST(Ranks, OneIsFirstAndLastAndHasNobodyToTalkTo) {
  Ranks& ranks = one_rank();
  EXPECT_TRUE(ranks.first() && ranks.last() && ranks.alone());
  EXPECT_EQ(ranks.send(1, {}).code(), StatusCode::kInternal);
  std::vector<uint8_t> bytes = {1, 2};
  EXPECT_TRUE(broadcast(ranks, &bytes).ok());
  EXPECT_EQ(bytes, (std::vector<uint8_t>{1, 2}));
}

TEST(Ranks, BroadcastReachesAll) {
  for (uint32_t size = 1; size <= 9; ++size) {
    testing::run_as_ranks(size, [&](Ranks& ranks) {
      std::vector<uint8_t> bytes;
      if (ranks.first()) bytes = {3, 1, 4};
      EXPECT_TRUE(broadcast(ranks, &bytes).ok());
      EXPECT_EQ(bytes, (std::vector<uint8_t>{3, 1, 4})) << ranks.rank() << " of " << size;
    });
  }
}

TEST(Ranks, GatherKeepsTheOrder) {
  for (uint32_t size = 1; size <= 5; ++size) {
    testing::run_as_ranks(size, [&](Ranks& ranks) {
      const auto mine = [](uint32_t rank) { return std::vector<uint8_t>(rank, static_cast<uint8_t>(rank)); };
      const auto first = gather(ranks, mine(ranks.rank()));
      ASSERT_TRUE(first.ok());
      EXPECT_EQ(first->size(), ranks.first() ? size : 0);
      const auto all = gather_to_all(ranks, mine(ranks.rank()));
      ASSERT_TRUE(all.ok());
      ASSERT_EQ(all->size(), size);
      for (uint32_t rank = 0; rank < size; ++rank) EXPECT_EQ((*all)[rank], mine(rank));
    });
  }
}

TEST(Ranks, ShareGivesTheFirstOnesValues) {
  testing::run_as_ranks(3, [](Ranks& ranks) {
    double number = ranks.first() ? 0.1 : 0;
    std::string text = ranks.first() ? "a text" : "";
    std::vector<int16_t> values = ranks.first() ? std::vector<int16_t>{-1, 2} : std::vector<int16_t>();
    EXPECT_TRUE(share(ranks, &number, &text, &values).ok());
    EXPECT_EQ(number, 0.1);
    EXPECT_EQ(text, "a text");
    EXPECT_EQ(values, (std::vector<int16_t>{-1, 2}));
  });
}

TEST(Message, TooShortIsAnError) {
  ByteWriter out;
  put_all(&out, uint32_t{1}, std::string("abc"));
  for (size_t size = 0; size < out.size(); ++size) {
    ByteReader in(Bytes(out.bytes()).first(size));
    uint32_t number = 0;
    std::string text;
    EXPECT_EQ(get_all(&in, &number, &text).code(), StatusCode::kTruncated) << size;
  }
}

}  // namespace
}  // namespace nwc
