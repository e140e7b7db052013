#include <gtest/gtest.h>

#include "runtime/base/half.h"
#include "tests/data/safetensors_bytes.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/model_source.h"
#include "trainer/data/safetensors.h"

namespace nwc {
namespace {

using test::entry;
using test::safetensors_bytes;

// Each read is from a fresh allocation of exactly the right size, so that a sanitizer sees a byte too far.
Result<SafetensorsHeader> parse(const std::string& bytes) {
  const std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  return read_safetensors_header(*make_memory_reader(copy));
}

void expect_error(const std::string& header, const std::string& data, StatusCode code, const std::string& part) {
  const Result<SafetensorsHeader> result = parse(safetensors_bytes(header, data));
  ASSERT_FALSE(result.ok()) << header;
  EXPECT_EQ(result.status().code(), code) << result.status().message();
  EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
}

std::string good_file() {
  return safetensors_bytes("{\"__metadata__\":{\"format\":\"pt\"}," + entry("b", "BF16", "[2,3]", 4, 16) + "," +
                               entry("a", "F32", "[]", 0, 4) + "," + entry("none", "I64", "[0,7]", 16, 16) + "}  ",
                           std::string(16, '\x01'));
}

TEST(Safetensors, ReadsTensorsInFileOrder) {
  const Result<SafetensorsHeader> header = parse(good_file());
  ASSERT_TRUE(header.ok()) << header.status().message();
  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_TRUE(header->tensors[0].shape.empty());
  EXPECT_EQ(header->tensors[1].name, "b");
  EXPECT_EQ(header->tensors[1].dtype, Dtype::kBf16);
  EXPECT_EQ(header->tensors[1].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(header->tensors[1].offset, good_file().size() - 12);
  EXPECT_EQ(header->tensors[1].size_bytes, 12u);
  EXPECT_EQ(header->tensors[2].size_bytes, 0u);
  EXPECT_EQ(header->metadata.at("format"), "pt");
}

TEST(Safetensors, EveryPrefixIsRejected) {
  const std::string file = good_file();
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_FALSE(parse(file.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(parse(file + "x").ok());
}

TEST(Safetensors, FlippedBytesNeverReachBeyondTheFile) {
  const std::string file = good_file();
  for (size_t i = 0; i < file.size() - 16; ++i) {
    for (const int flip : {0x01, 0x02, 0x10, 0x20, 0x80, 0xff}) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      const Result<SafetensorsHeader> header = parse(damaged);
      if (!header.ok()) continue;
      for (const SafetensorsTensor& tensor : header->tensors) {
        EXPECT_LE(tensor.offset + tensor.size_bytes, damaged.size());
      }
    }
  }
}

TEST(Safetensors, RejectsWhatTheFormatForbids) {
  using enum StatusCode;
  const std::string d8(8, '\0');
  std::string many_ones;
  for (int i = 0; i < 64; ++i) many_ones += "1,";
  expect_error("{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("a", "F32", "[1]", 4, 8) + "}", d8, kCorrupt,
               "twice");
  expect_error("{" + entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[1]", 4, 8) + "}", d8, kCorrupt,
               "\"b\" starts at file offset");
  expect_error("{" + entry("a", "F32", "[1]", 4, 8) + "}", d8, kCorrupt, "after a hole");
  expect_error("{" + entry("a", "F32", "[1]", 0, 4) + "}", d8, kCorrupt, "unexpected bytes");
  expect_error("{" + entry("a", "F32", "[2]", 0, 4) + "}", d8, kCorrupt, "need 8");
  expect_error("{" + entry("a", "F32", "[3]", 0, 12) + "}", d8, kTruncated, "only 8 bytes");
  expect_error("{" + entry("a", "F32", "[2]", 8, 0) + "}", d8, kCorrupt, "data_offsets");
  expect_error("{" + entry("w", "F7_E3M3", "[8]", 0, 8) + "}", d8, kUnsupported,
               "tensor \"w\" has element type F7_E3M3");
  expect_error("{" + entry("w", "F4", "[3,5]", 0, 8) + "}", d8, kCorrupt, "whole bytes");
  expect_error("{" + entry("a\\u0000b", "F32", "[2]", 0, 8) + "}", d8, kCorrupt, "name");
  expect_error("{" + entry("a", "F32", "[-2]", 0, 8) + "}", d8, kCorrupt, "dimension");
  expect_error("{" + entry("a", "F32", "[2.0]", 0, 8) + "}", d8, kCorrupt, "dimension");
  expect_error("{" + entry("a", "F32", "[" + many_ones + "1]", 0, 8) + "}", d8, kLimit, "65 dimensions");
  expect_error("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", d8, kCorrupt, "exactly");
  expect_error("{\"a\":7}", d8, kCorrupt, "exactly");
  expect_error("[]", "", kCorrupt, "'{'");
  expect_error("", "", kCorrupt, "'{'");
  expect_error("{\"a\xff\":1}", "", kCorrupt, "invalid JSON");
}

// What is odd and costs no weights is a note.
TEST(Safetensors, NamesTensorsThatHaveNoName) {
  const auto header = parse(safetensors_bytes(
      "{" + entry("", "F32", "[2]", 0, 8) + "," + entry("unnamed", "F32", "[1]", 8, 12) + "}", "12345678abcd"));
  ASSERT_TRUE(header.ok()) << header.status().message();
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_EQ(header->tensors[0].name, "unnamed_");
  EXPECT_EQ(header->tensors[0].size_bytes, 8u);
  EXPECT_EQ(header->tensors[1].name, "unnamed");
  EXPECT_NE(join_notes(header->notes, NoteKind::kRepaired).find("empty name"), std::string::npos);
}

TEST(Safetensors, LeavesOutMetadataThatIsNoText) {
  for (const char* metadata : {"7", "[]", "null", R"({"k":1,"format":"pt"})", R"({"k":{"x":"y"},"format":"pt"})"}) {
    const auto header = parse(safetensors_bytes(
        "{\"__metadata__\":" + std::string(metadata) + "," + entry("a", "F32", "[2]", 0, 8) + "}", "12345678"));
    ASSERT_TRUE(header.ok()) << header.status().message();
    EXPECT_EQ(header->tensors.size(), 1u);
    EXPECT_EQ(header->metadata.size(), metadata[0] == '{' ? 1u : 0u);
    EXPECT_NE(join_notes(header->notes, NoteKind::kRepaired).find("__metadata__"), std::string::npos);
  }
}

TEST(Safetensors, RejectsShapesThatOverflow) {
  using enum StatusCode;
  // 2^32 * 2^32 elements: 0 bytes to a reader that does not check.
  expect_error("{" + entry("a", "F32", "[4294967296,4294967296]", 0, 0) + "}", "", kLimit, "too large");
  expect_error("{" + entry("a", "F32", "[18446744073709551615]", 0, 0) + "}", "", kLimit, "too large");
  expect_error("{" + entry("a", "F32", "[2147483647,2147483647,2147483647]", 0, 0) + "}", "", kLimit, "too large");
  expect_error("{" + entry("a", "F32", "[0,18446744073709551615]", 0, 0) + "}", "", kLimit, "too large");
  expect_error("{" + entry("a", "F32", "[99999999999999999999]", 0, 0) + "}", "", kCorrupt, "dimension");
}

TEST(Safetensors, RejectsHostileHeaders) {
  std::string deep = "{\"__metadata__\":";
  deep += std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_EQ(parse(safetensors_bytes(deep, "")).status().code(), StatusCode::kLimit);
  EXPECT_EQ(parse(std::string(8, '\xff')).status().code(), StatusCode::kLimit);
  EXPECT_EQ(parse(std::string("\x10\0\0\0\0\0\0\0{}", 10)).status().code(), StatusCode::kTruncated);
}

// The element types of the format's reference implementation, version 0.6, with their bits.
TEST(Safetensors, ReadsEveryElementType) {
  const std::pair<const char*, uint64_t> types[] = {
      {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6},     {"F6_E3M2", 6},    {"U8", 8},   {"I8", 8},
      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},     {"I16", 16},       {"U16", 16}, {"F16", 16},
      {"BF16", 16},   {"I32", 32},    {"U32", 32},        {"F32", 32},       {"C64", 64}, {"F64", 64},
      {"I64", 64},    {"U64", 64},    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};
  for (const auto& [type, bits] : types) {
    const Result<SafetensorsHeader> header = parse(
        safetensors_bytes("{" + entry("w", type, "[1,1,1,1,1,1,1,1,1,4,2]", 0, bits) + "}", std::string(bits, 'x')));
    ASSERT_TRUE(header.ok()) << type << ": " << header.status().message();
    EXPECT_STREQ(dtype_name(header->tensors[0].dtype), type);
    EXPECT_EQ(header->tensors[0].size_bytes, bits);
    EXPECT_EQ(header->tensors[0].shape.size(), 11u);
  }
}

TEST(Safetensors, WritesWhatItReads) {
  const test::TempDir dir;
  std::vector<SafetensorsTensor> tensors = {
      {"z", Dtype::kF32, {2, 2}}, {"a \"quoted\"", Dtype::kU8, {3}}, {"e", Dtype::kF16, {0}}};
  const std::vector<std::vector<uint8_t>> data = {std::vector<uint8_t>(16, 7), {1, 2, 3}, {}};
  const auto produce = [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    *bytes = data[i];
    return {};
  };
  const std::string path = dir.file("out.safetensors");
  ASSERT_TRUE(write_safetensors(path, tensors, {{"k", "v"}}, produce).ok());
  const std::string first = test::load_file(path);
  ASSERT_TRUE(write_safetensors(path, tensors, {{"k", "v"}}, produce).ok());
  EXPECT_EQ(first, test::load_file(path));
  EXPECT_EQ(dir.count(), 1u) << "a temporary file is left";

  const Result<std::unique_ptr<ModelSource>> source = open_model_source(path);
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_EQ((*source)->tensors().size(), 3u);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::optional<size_t> at = (*source)->find(tensors[i].name);
    ASSERT_TRUE(at);
    EXPECT_EQ((*source)->tensors()[*at].shape, tensors[i].shape);
    std::vector<uint8_t> bytes(data[i].size());
    ASSERT_TRUE((*source)->read_raw(*at, bytes).ok());
    EXPECT_EQ(bytes, data[i]);
  }
  EXPECT_EQ((*source)->stored_bytes(), 19u);
}

TEST(Safetensors, FailedWriteLeavesTheOldFile) {
  const test::TempDir dir;
  const std::string path = dir.write("out.safetensors", "old");
  const std::vector<SafetensorsTensor> tensors = {{"a", Dtype::kF32, {1}}};
  const auto fail = [](size_t, std::vector<uint8_t>*) { return io_error("no"); };
  const auto short_data = [](size_t, std::vector<uint8_t>* bytes) -> Status {
    bytes->assign(3, 0);
    return {};
  };
  const std::vector<SafetensorsTensor> twice = {{"a", Dtype::kF32, {0}}, {"a", Dtype::kF32, {0}}};
  const auto empty = [](size_t, std::vector<uint8_t>* bytes) -> Status {
    bytes->clear();
    return {};
  };
  EXPECT_EQ(write_safetensors(path, tensors, {}, fail).code(), StatusCode::kIo);
  EXPECT_EQ(write_safetensors(path, tensors, {}, short_data).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(write_safetensors(path, twice, {}, empty).code(), StatusCode::kInvalidArgument);
  // A folder that is missing is the caller's mistake, and is found before anything is written.
  EXPECT_EQ(write_safetensors(dir.file("missing/out"), tensors, {}, short_data).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(test::load_file(path), "old");
  EXPECT_EQ(dir.count(), 1u);
}

TEST(ModelSource, ReadsFloatsOfEveryTypeAndNamesNaN) {
  const test::TempDir dir;
  const std::vector<SafetensorsTensor> tensors = {{"f32", Dtype::kF32, {2}},     {"f16", Dtype::kF16, {2}},
                                                  {"bf16", Dtype::kBf16, {2}},   {"f64", Dtype::kF64, {2}},
                                                  {"bad", Dtype::kF16, {2, 2}},  {"infinite", Dtype::kF64, {1}},
                                                  {"integers", Dtype::kI32, {1}}};
  const auto produce = [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    ByteWriter out;
    switch (i) {
      case 0: out.write(1.5f), out.write(-2.f); break;
      case 1: out.write(f32_to_f16(1.5f)), out.write(f32_to_f16(-2.f)); break;
      case 2: out.write(f32_to_bf16(1.5f)), out.write(f32_to_bf16(-2.f)); break;
      case 3: out.write(1.5), out.write(-2.0); break;
      case 4:
        for (const int h : {0, 0, 0x7e00, 0}) out.write(static_cast<uint16_t>(h));
        break;
      case 5: out.write(1e300); break;
      default: out.write(7); break;
    }
    *bytes = out.take();
    return {};
  };
  ASSERT_TRUE(write_safetensors(dir.file("t.safetensors"), tensors, {}, produce).ok());
  const Result<std::unique_ptr<ModelSource>> source = open_model_source(dir.file("t.safetensors"));
  ASSERT_TRUE(source.ok());
  for (const char* name : {"f32", "f16", "bf16", "f64"}) {
    const Result<std::vector<float>> values = (*source)->read_f32((*source)->find(name).value());
    ASSERT_TRUE(values.ok()) << name;
    EXPECT_EQ(*values, (std::vector<float>{1.5f, -2.f})) << name;
  }
  const Status nan = (*source)->read_f32((*source)->find("bad").value()).status();
  EXPECT_EQ(nan.code(), StatusCode::kCorrupt);
  EXPECT_NE(nan.message().find("tensor \"bad\" has a NaN at element 2 (row 1, column 0)"), std::string::npos)
      << nan.message();
  EXPECT_EQ((*source)->read_f32((*source)->find("infinite").value()).status().code(), StatusCode::kCorrupt);
  EXPECT_EQ((*source)->read_f32((*source)->find("integers").value()).status().code(), StatusCode::kInvalidArgument);
  std::vector<uint8_t> wrong(7);
  EXPECT_EQ((*source)->read_raw(0, wrong).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ((*source)->read_f32(99).status().code(), StatusCode::kInvalidArgument);
}

// Tensors of 8 bytes each, but the third of 40.
std::vector<SafetensorsTensor> five_tensors() {
  std::vector<SafetensorsTensor> tensors(5);
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name = std::string(1, static_cast<char>('a' + i));
    tensors[i].shape = {i == 2 ? 10u : 2u};
  }
  return tensors;
}

TEST(SafetensorsShards, HaveAnIndexAndHoldNoMoreThanTheyMay) {
  const test::TempDir dir;
  const std::vector<SafetensorsTensor> tensors = five_tensors();
  const auto produce = [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    bytes->assign(i == 2 ? 40 : 8, static_cast<uint8_t>(i));
    return {};
  };
  const std::string path = dir.file("model.safetensors");
  ASSERT_TRUE(write_safetensors_shards(path, tensors, {{"format", "pt"}}, 16, produce).ok());
  EXPECT_EQ(dir.count(), 4u);
  std::vector<std::vector<std::string>> found;
  for (const char* part : {"1", "2", "3"}) {
    auto reader = open_file_reader(dir.file(std::string("model-0000") + part + "-of-00003.safetensors"));
    ASSERT_TRUE(reader.ok()) << part;
    const auto header = read_safetensors_header(**reader);
    ASSERT_TRUE(header.ok());
    EXPECT_EQ(header->metadata.at("format"), "pt");
    found.emplace_back();
    for (const SafetensorsTensor& tensor : header->tensors) {
      std::vector<uint8_t> bytes(tensor.size_bytes);
      ASSERT_TRUE((*reader)->read(tensor.offset, bytes).ok());
      EXPECT_EQ(bytes, std::vector<uint8_t>(bytes.size(), static_cast<uint8_t>(tensor.name[0] - 'a')));
      found.back().push_back(tensor.name);
    }
  }
  EXPECT_EQ(found, (std::vector<std::vector<std::string>>{{"a", "b"}, {"c"}, {"d", "e"}}));
  const std::string index = test::load_file(path + ".index.json");
  EXPECT_NE(index.find("\"total_size\": 72"), std::string::npos) << index;
  EXPECT_NE(index.find("\"c\": \"model-00002-of-00003.safetensors\""), std::string::npos) << index;
}

TEST(SafetensorsShards, AreOneFileWhereThatIsEnough) {
  const test::TempDir dir;
  const auto produce = [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    bytes->assign(i == 2 ? 40 : 8, 0);
    return {};
  };
  ASSERT_TRUE(write_safetensors_shards(dir.file("m.safetensors"), five_tensors(), {}, 72, produce).ok());
  EXPECT_EQ(dir.count(), 1u);
  EXPECT_TRUE(open_file_reader(dir.file("m.safetensors")).ok());
}

TEST(SafetensorsShards, LeaveNothingBehindOnErrors) {
  const test::TempDir dir;
  for (size_t bad = 0; bad < 5; ++bad) {
    const auto produce = [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
      bytes->assign(i == 2 ? 40 : 8, 0);
      return i == bad ? Status(StatusCode::kIo, "no space left") : Status();
    };
    const Status status = write_safetensors_shards(dir.file("m.safetensors"), five_tensors(), {}, 10, produce);
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_EQ(dir.count(), 0u);
  }
  const auto never = [](size_t, std::vector<uint8_t>*) { return Status(); };
  EXPECT_EQ(write_safetensors_shards(dir.file("m.bin"), five_tensors(), {}, 10, never).code(),
            StatusCode::kInvalidArgument);
  std::vector<SafetensorsTensor> twice = five_tensors();
  twice[4].name = "a";
  EXPECT_EQ(write_safetensors_shards(dir.file("m.safetensors"), twice, {}, 10, never).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(dir.count(), 0u);
}

TEST(ModelSource, RefusesOtherThings) {
  const test::TempDir dir;
  EXPECT_EQ(open_model_source(dir.file("none")).status().code(), StatusCode::kIo);
  EXPECT_EQ(open_model_source(dir.write("x.bin", "hello")).status().code(), StatusCode::kUnrecognized);
  EXPECT_EQ(open_model_source(dir.path()).status().code(), StatusCode::kUnrecognized);
}

}  // namespace
}  // namespace nwc
