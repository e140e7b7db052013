#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

std::string text(const std::string& joined) { return joined; }

TEST(StrCat, JoinsStringsAndIntegers) {
  const std::string name = "layer";
  EXPECT_EQ(text(str_cat(name, std::string_view(", tile", 6), " ", 7, " of ", size_t{80})), "layer, tile 7 of 80");
  EXPECT_EQ(text(str_cat(uint8_t{200}, " ", int8_t{-100}, " ", uint16_t{65535}, " ", 0u)), "200 -100 65535 0");
}

TEST(StrCat, LimitsOfIntegers) {
  EXPECT_EQ(text(str_cat(std::numeric_limits<int64_t>::min())), "-9223372036854775808");
  EXPECT_EQ(text(str_cat(std::numeric_limits<uint64_t>::max())), "18446744073709551615");
  EXPECT_EQ(text(str_cat(std::numeric_limits<uint64_t>::max() - 1, -1, "", std::numeric_limits<int32_t>::min())),
            "18446744073709551614-1-2147483648");
}

TEST(StrCat, StringsMayHoldAnyByte) {
  const std::string zero("a\0b", 3);
  EXPECT_EQ(text(str_cat(zero, zero)), std::string("a\0ba\0b", 6));
}

}  // namespace
}  // namespace nwc
