#include <gtest/gtest.h>
#include <zlib.h>

#include <random>

#include "runtime/format/container.h"

namespace nwc {
namespace {

TEST(Crc32, KnownAnswer) {
  const std::string s = "123456789";
  EXPECT_EQ(crc32(Bytes(reinterpret_cast<const uint8_t*>(s.data()), s.size())), 0xcbf43926u);
  EXPECT_EQ(crc32({}), 0u);
}

TEST(Crc32, AsZlibForEveryLengthAlignmentAndSeed) {
  std::mt19937 rng(1);
  std::vector<uint8_t> bytes(5000);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  for (size_t size = 0; size < 1200; ++size) {
    const size_t at = rng() % 64;
    const uint32_t seed = size % 3 == 0 ? 0 : static_cast<uint32_t>(rng());
    ASSERT_EQ(crc32(Bytes(bytes).subspan(at, size), seed), ::crc32(seed, bytes.data() + at, static_cast<uInt>(size)));
  }
  EXPECT_EQ(crc32(bytes), ::crc32(0, bytes.data(), 5000));
  EXPECT_EQ(crc32(Bytes(bytes).subspan(2000), crc32(Bytes(bytes).first(2000))), crc32(bytes));
}

}  // namespace
}  // namespace nwc
