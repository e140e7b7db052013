#include <gtest/gtest.h>

#include "tests/data/gguf_builder.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/gguf_file.h"
#include "trainer/data/gguf_source.h"

namespace nwc {
namespace {

using test::GgufBuilder;
using test::TempDir;

Result<GgufFile> parse(const std::string& bytes) {
  return GgufFile::open(make_owned_reader(std::vector<uint8_t>(bytes.begin(), bytes.end())));
}

void expect_error(const GgufBuilder& builder, StatusCode code, const std::string& part) {
  const Result<GgufFile> result = parse(builder.build());
  ASSERT_FALSE(result.ok()) << part;
  EXPECT_EQ(result.status().code(), code) << result.status().message();
  EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
}

template <typename T>
std::string as_bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

GgufBuilder good_builder() {
  GgufBuilder builder;
  builder.string("general.architecture", "test").u32("n", 7).i32("negative", -7).f32("x", 0.5f).boolean("yes", true);
  builder.strings("words", {"a", "", "bc"})
      .floats("floats", {1, 2})
      .integers("integers", {-1, 2})
      .u64("big", 1ull << 40);
  // An array of two arrays of u8.
  builder.raw("nested", 9,
              as_bytes<uint32_t>(9) + as_bytes<uint64_t>(2) + as_bytes<uint32_t>(0) + as_bytes<uint64_t>(1) + "x" +
                  as_bytes<uint32_t>(0) + as_bytes<uint64_t>(0));
  builder.f32_tensor("a", {3, 2}).tensor("q", {32, 2}, 2, std::string(36, '\x01')).f32_tensor("scalar", {});
  return builder;
}

TEST(GgufFile, ReadsMetadataAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    GgufBuilder builder = good_builder();
    builder.version = version;
    const Result<GgufFile> file = parse(builder.build());
    ASSERT_TRUE(file.ok()) << file.status().message();
    uint32_t n = 1, absent = 5;
    float x = 0;
    bool yes = false;
    std::string text;
    std::vector<std::string> words;
    std::vector<float> floats;
    std::vector<int32_t> integers;
    EXPECT_TRUE(file->get("n", &n).ok() && file->get("x", &x).ok() && file->get("yes", &yes).ok());
    EXPECT_TRUE(file->get("general.architecture", &text).ok() && file->get("words", &words).ok());
    EXPECT_TRUE(file->get("floats", &floats).ok() && file->get("integers", &integers).ok());
    EXPECT_TRUE(file->get("absent", &absent).ok());
    EXPECT_EQ(n, 7u);
    EXPECT_EQ(x, 0.5f);
    EXPECT_TRUE(yes);
    EXPECT_EQ(text, "test");
    EXPECT_EQ(words, (std::vector<std::string>{"a", "", "bc"}));
    EXPECT_EQ(floats, (std::vector<float>{1, 2}));
    EXPECT_EQ(integers, (std::vector<int32_t>{-1, 2}));
    EXPECT_EQ(absent, 5u);
    for (const char* key : {"negative", "x", "words", "big", "yes"}) {
      EXPECT_EQ(file->get(key, &n).code(), StatusCode::kCorrupt) << key;
    }
    EXPECT_FALSE(file->get("words", &floats).ok());
    EXPECT_FALSE(file->get("floats", &integers).ok());
    EXPECT_FALSE(file->get("n", &text).ok());
    EXPECT_FALSE(file->get("n", &x).ok());
    EXPECT_FALSE(file->get("nested", &words).ok());
    EXPECT_TRUE(file->is_array("nested"));

    ASSERT_EQ(file->tensors().size(), 3u);
    EXPECT_EQ(file->tensors()[0].shape, (std::vector<uint64_t>{2, 3}));
    EXPECT_EQ(file->tensors()[1].size_bytes, 36u);
    EXPECT_STREQ(file->tensors()[1].type->name, "Q4_0");
    EXPECT_EQ(file->tensors()[1].offset - file->tensors()[0].offset, 32u);
    EXPECT_EQ(file->tensors()[2].size_bytes, 4u);
  }
}

// More is read until the header ends: nothing may be there twice, and nothing may point into what was read before.
TEST(GgufFile, ReadsHeadersOfSeveralMiB) {
  const std::vector<std::string> tokens(30000, std::string(100, 't'));
  const std::string bytes = GgufBuilder()
                                .string("general.architecture", "llama")
                                .strings("tokenizer.ggml.tokens", tokens)
                                .string("tokenizer.chat_template", "template")
                                .f32_tensor("a", {2})
                                .build();
  const TempDir dir;
  Result<std::unique_ptr<Reader>> reader = open_file_reader(dir.write("long.gguf", bytes));
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  const Result<GgufFile> file = GgufFile::open(std::move(reader).value());
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ(file.value().tensors().size(), 1u);
  const std::vector<GgufFile::RawPair>& pairs = file.value().raw_metadata();
  ASSERT_EQ(pairs.size(), 3u);
  std::string all;
  for (const GgufFile::RawPair& pair : pairs) all.append(pair.bytes.begin(), pair.bytes.end());
  EXPECT_EQ(all, bytes.substr(24, all.size()));
  EXPECT_EQ(pairs[2].key, "tokenizer.chat_template");
}

TEST(GgufFile, EveryPrefixIsRejectedAndFlipsStayInBounds) {
  size_t header_bytes = 0;
  const std::string file = good_builder().build(&header_bytes);
  // The last tensor has 4 bytes; what follows is padding, which may be absent.
  for (size_t length = 0; length < file.size() - 28; ++length) {
    EXPECT_FALSE(parse(file.substr(0, length)).ok()) << length;
  }
  EXPECT_TRUE(parse(file.substr(0, file.size() - 28)).ok());
  for (size_t i = 0; i < header_bytes; ++i) {
    for (const int flip : {0x01, 0x04, 0x08, 0x20, 0x80, 0xff}) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      const Result<GgufFile> result = parse(damaged);
      if (!result.ok()) continue;
      for (const GgufTensor& tensor : result->tensors()) EXPECT_LE(tensor.offset + tensor.size_bytes, damaged.size());
      // Nothing that opens may make the layers above fail in another way than with a status.
      if (Result<GgufFile> again = parse(damaged); again.ok()) (void)open_gguf(std::move(*again)).ok();
    }
  }
}

TEST(GgufFile, RejectsOtherFilesAndVersions) {
  EXPECT_EQ(parse("GGML" + std::string(100, '\0')).status().code(), StatusCode::kUnrecognized);
  GgufBuilder builder;
  builder.version = 1;
  expect_error(builder, StatusCode::kUnsupportedVersion, "version 1");
  builder.version = 0x03000000;
  expect_error(builder, StatusCode::kUnsupported, "big-endian");
}

TEST(GgufFile, RejectsHostileMetadata) {
  using enum StatusCode;
  const auto huge = as_bytes(UINT64_MAX);
  expect_error(GgufBuilder().u32("a", 1).u32("a", 2), kCorrupt, "\"a\" occurs twice");
  expect_error(GgufBuilder().raw("a", 13, ""), kCorrupt, "unknown metadata type 13");
  expect_error(GgufBuilder().raw("a", 8, huge), kTruncated, "metadata key \"a\"");
  expect_error(GgufBuilder().raw("a", 9, as_bytes<uint32_t>(0) + huge), kTruncated, "metadata key \"a\"");
  expect_error(GgufBuilder().raw("a", 9, as_bytes<uint32_t>(4) + huge), kCorrupt, "overflows");
  expect_error(GgufBuilder().raw("a", 9, as_bytes<uint32_t>(8) + huge), kTruncated, "metadata key \"a\"");
  std::string nested;
  for (int depth = 0; depth < 1000; ++depth) nested += as_bytes<uint32_t>(9) + as_bytes<uint64_t>(1);
  expect_error(GgufBuilder().raw("a", 9, nested), kLimit, "nested deeper");
  for (const uint32_t alignment : {0u, 24u, 1u << 21}) {
    expect_error(GgufBuilder().u32("general.alignment", alignment), kCorrupt, "general.alignment");
  }
  expect_error(GgufBuilder().string("general.alignment", "32"), kCorrupt, "general.alignment");
}

TEST(GgufFile, RejectsHostileCounts) {
  for (const size_t at : {size_t{8}, size_t{16}}) {
    std::string file = good_builder().build();
    for (const uint64_t count : {uint64_t{1000}, uint64_t{1} << 19, UINT64_MAX}) {
      std::memcpy(file.data() + at, &count, 8);
      EXPECT_FALSE(parse(file).ok()) << at << " " << count;
    }
  }
}

TEST(GgufFile, RejectsHostileTensors) {
  using enum StatusCode;
  const std::string d32(32, '\0');
  expect_error(GgufBuilder().f32_tensor("a", {8}).f32_tensor("a", {8}), kCorrupt, "\"a\" occurs twice");
  expect_error(GgufBuilder().tensor("a", {256}, 10, d32), kTruncated, "84 bytes");  // a block of Q2_K
  expect_error(GgufBuilder().tensor("a", {256}, 999, d32), kUnsupported, "type 999");
  expect_error(GgufBuilder().tensor("a", {16}, 2, d32), kCorrupt, "not whole Q4_0 blocks");
  expect_error(GgufBuilder().tensor("a", {1, 1, 1, 1, 1}, 0, d32), kLimit, "5 dimensions");
  expect_error(GgufBuilder().tensor("a", {1ull << 32, 1ull << 32}, 0, d32), kLimit, "too large");
  expect_error(GgufBuilder().tensor("a", {0, UINT64_MAX}, 0, ""), kLimit, "too large");
  expect_error(GgufBuilder().tensor("a", {9}, 0, d32), kTruncated, "tensor \"a\"");
  expect_error(GgufBuilder().tensor("", {8}, 0, d32), kCorrupt, "name");
  expect_error(GgufBuilder().tensor("\xff", {8}, 0, d32), kCorrupt, "name");
  expect_error(GgufBuilder().tensor(std::string(2000, 'a'), {8}, 0, d32), kLimit, "tensor name");
  expect_error(GgufBuilder().tensor_at("a", {1}, 0, 4, d32), kCorrupt, "not a multiple");
  expect_error(GgufBuilder().tensor_at("a", {1}, 0, UINT64_MAX - 31, d32), kTruncated, "beyond the end");
  expect_error(GgufBuilder().tensor_at("a", {8}, 0, 32, d32 + d32), kCorrupt, "unused bytes");
  expect_error(GgufBuilder().f32_tensor("a", {16}).tensor_at("b", {8}, 0, 32, ""), kCorrupt, "overlaps");
  GgufBuilder trailing = GgufBuilder().f32_tensor("a", {8});
  trailing.trailing = d32;
  expect_error(trailing, kCorrupt, "32 unexpected bytes");
}

}  // namespace
}  // namespace nwc
