#include <gtest/gtest.h>

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"

namespace nwc {
namespace {

TEST(ByteReader, ReadsLittleEndianFieldsInOrder) {
  const uint8_t data[] = {0x01, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12, 'a', 'b', 0x02, 0x00, 0x03, 0x00};
  ByteReader reader(data);
  uint8_t a = 0;
  uint16_t b = 0;
  uint32_t c = 0;
  std::string text;
  std::vector<uint16_t> array;
  ASSERT_TRUE(reader.read(&a, "a").ok());
  ASSERT_TRUE(reader.read(&b, "b").ok());
  ASSERT_TRUE(reader.read(&c, "c").ok());
  ASSERT_TRUE(reader.read_string(&text, 2, "text").ok());
  ASSERT_TRUE(reader.read_array(&array, 2, "array").ok());
  EXPECT_EQ(a, 1);
  EXPECT_EQ(b, 0x1234);
  EXPECT_EQ(c, 0x12345678u);
  EXPECT_EQ(text, "ab");
  EXPECT_EQ(array, (std::vector<uint16_t>{2, 3}));
  EXPECT_TRUE(reader.expect_end("all").ok());
}

TEST(ByteReader, ErrorsNameFieldAndFileOffset) {
  const uint8_t data[] = {1, 2, 3};
  ByteReader reader(data, 1000);
  uint16_t first = 0;
  ASSERT_TRUE(reader.read(&first, "first").ok());
  uint32_t second = 0;
  const Status status = reader.read(&second, "second");
  EXPECT_EQ(status.code(), StatusCode::kTruncated);
  EXPECT_NE(status.message().find("second"), std::string::npos);
  EXPECT_NE(status.message().find("1002"), std::string::npos);
  EXPECT_EQ(reader.remaining(), 1u) << "a failed read must not move the cursor";
}

TEST(ByteReader, CountsAreCheckedBeforeAllocation) {
  const uint8_t data[16] = {};
  ByteReader reader(data);
  std::vector<uint64_t> array;
  // 2^61 elements of 8 bytes: the product wraps around to 0.
  EXPECT_EQ(reader.read_array(&array, 1ull << 61, "array").code(), StatusCode::kTruncated);
  EXPECT_EQ(reader.read_array(&array, UINT64_MAX, "array").code(), StatusCode::kTruncated);
  EXPECT_EQ(reader.read_array(&array, 3, "array").code(), StatusCode::kTruncated);
  EXPECT_TRUE(array.empty());
  Bytes bytes;
  EXPECT_EQ(reader.read_bytes(&bytes, UINT64_MAX, "bytes").code(), StatusCode::kTruncated);
  std::string text;
  EXPECT_EQ(reader.read_string(&text, 17, "text").code(), StatusCode::kTruncated);
  EXPECT_EQ(reader.remaining(), 16u);
}

TEST(ByteReader, TrailingBytesAreAnError) {
  const uint8_t data[] = {1, 2};
  ByteReader reader(data);
  uint8_t a = 0;
  ASSERT_TRUE(reader.read(&a, "a").ok());
  EXPECT_EQ(reader.expect_end("record").code(), StatusCode::kCorrupt);
}

TEST(ByteWriter, WritesWhatTheReaderReads) {
  ByteWriter writer;
  writer.write<uint32_t>(0xdeadbeef);
  writer.write_string("xyz");
  const float values[] = {1.5f, -2.25f};
  writer.write_array(std::span<const float>(values));
  EXPECT_EQ(writer.size(), 4u + 3 + 8);
  const std::vector<uint8_t> bytes = writer.take();
  ByteReader reader(bytes);
  uint32_t word = 0;
  std::string text;
  std::vector<float> floats;
  ASSERT_TRUE(reader.read(&word, "word").ok());
  ASSERT_TRUE(reader.read_string(&text, 3, "text").ok());
  ASSERT_TRUE(reader.read_array(&floats, 2, "floats").ok());
  EXPECT_EQ(word, 0xdeadbeefu);
  EXPECT_EQ(text, "xyz");
  EXPECT_EQ(floats, std::vector<float>(std::begin(values), std::end(values)));
}

TEST(Checked, OverflowIsSeen) {
  uint64_t out = 0;
  EXPECT_TRUE(checked_mul(1ull << 31, 1ull << 31, &out));
  EXPECT_EQ(out, 1ull << 62);
  EXPECT_FALSE(checked_mul(1ull << 32, 1ull << 32, &out));
  EXPECT_TRUE(checked_add(UINT64_MAX - 1, 1, &out));
  EXPECT_EQ(out, UINT64_MAX);
  EXPECT_FALSE(checked_add(UINT64_MAX, 1, &out));
  EXPECT_EQ(ceil_div(0, 16), 0u);
  EXPECT_EQ(ceil_div(17, 16), 2u);
  EXPECT_EQ(ceil_div(UINT64_MAX, 2), 1ull << 63);
  EXPECT_EQ(align_up(1, 64), 64u);
  EXPECT_EQ(align_up(64, 64), 64u);
}

}  // namespace
}  // namespace nwc
