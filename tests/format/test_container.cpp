#include <gtest/gtest.h>

#include <functional>

#include "runtime/format/container.h"
#include "runtime/format/utf8_check.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

using reference::Section;

std::vector<uint8_t> sample() {
  return reference::make_container(FileKind::kCodec, {{SectionType::kCodec, {1, 2, 3}},
                                                      {SectionType::kAnalysis, std::vector<uint8_t>(1000, 7), true},
                                                      {SectionType::kProvenance, {}}});
}

// Applies `change` and makes both checksums right again, so that the change itself is what is judged.
StatusCode code_after(std::vector<uint8_t> bytes, const std::function<void(std::vector<uint8_t>&)>& change) {
  change(bytes);
  const uint32_t sections = std::min<uint32_t>(load_le<uint32_t>(&bytes[24]), 64);
  const size_t table = std::min<size_t>(48 * sections, bytes.size() - 64);
  store_le(&bytes[28], crc32(Bytes(bytes).subspan(64, table)));
  store_le(&bytes[60], crc32(Bytes(bytes).first(60)));
  return Container::open(*make_memory_reader(bytes)).status().code();
}

size_t entry(size_t i) { return 64 + 48 * i; }

TEST(Container, RoundTrip) {
  const std::vector<uint8_t> bytes = sample();
  const auto reader = make_memory_reader(bytes);
  const auto c = Container::open(*reader);
  ASSERT_TRUE(c.ok()) << c.status().message();
  EXPECT_EQ(c->kind(), FileKind::kCodec);
  EXPECT_EQ(*c->load(SectionType::kCodec), (std::vector<uint8_t>{1, 2, 3}));
  EXPECT_EQ(*c->load(SectionType::kAnalysis), std::vector<uint8_t>(1000, 7));
  EXPECT_TRUE(c->load(SectionType::kProvenance)->empty());
  EXPECT_EQ(c->load(SectionType::kModel).status().code(), StatusCode::kNotFound);
}

TEST(Container, DamagedSectionsAndChecksums) {
  std::vector<uint8_t> bytes = sample();
  bytes[entry(3)] ^= 1;  // first byte of CODEC
  const auto reader = make_memory_reader(bytes);
  EXPECT_EQ(Container::open(*reader)->load(SectionType::kCodec).status().code(), StatusCode::kChecksum);
  for (const size_t at : {size_t{13}, size_t{70}}) {
    bytes = sample();
    bytes[at] ^= 1;
    EXPECT_EQ(Container::open(*make_memory_reader(bytes)).status().code(), StatusCode::kChecksum);
  }
}

TEST(Container, HeaderFields) {
  const auto set = [](size_t at, auto value) {
    return [at, value](std::vector<uint8_t>& b) { store_le(&b[at], value); };
  };
  EXPECT_EQ(code_after(sample(), [](auto&) {}), StatusCode::kOk);
  EXPECT_EQ(code_after(sample(), set(0, uint8_t{0x88})), StatusCode::kUnrecognized);
  EXPECT_EQ(code_after(sample(), set(8, uint16_t{2})), StatusCode::kUnsupportedVersion);
  EXPECT_EQ(code_after(sample(), set(10, uint16_t{9})), StatusCode::kOk);  // any minor version
  EXPECT_EQ(code_after(sample(), set(12, uint32_t{4})), StatusCode::kUnsupported);
  EXPECT_EQ(code_after(sample(), set(40, uint8_t{1})), StatusCode::kUnsupported);  // reserved
  EXPECT_EQ(code_after(sample(), set(24, uint32_t{0})), StatusCode::kLimit);
  EXPECT_EQ(code_after(sample(), set(24, uint32_t{65})), StatusCode::kLimit);
  EXPECT_EQ(code_after(sample(), [](auto& b) { b.push_back(0); }), StatusCode::kCorrupt);
  EXPECT_EQ(code_after(sample(), [](auto& b) { b.pop_back(); }), StatusCode::kTruncated);
}

TEST(Container, SectionTable) {
  const auto set = [](size_t i, size_t field, auto value) {
    return [=](std::vector<uint8_t>& b) { store_le(&b[entry(i) + field], value); };
  };
  EXPECT_EQ(code_after(sample(), set(1, 0, uint32_t{1})), StatusCode::kCorrupt);       // CODEC twice
  EXPECT_EQ(code_after(sample(), set(1, 0, uint32_t{99})), StatusCode::kUnsupported);  // unknown type
  EXPECT_EQ(code_after(sample(),
                       [&](auto& b) {
                         set(1, 0, uint32_t{99})(b);
                         set(1, 4, uint32_t{3})(b);  // ... that may be ignored
                       }),
            StatusCode::kOk);
  EXPECT_EQ(code_after(sample(), set(0, 4, uint32_t{4})), StatusCode::kUnsupported);     // reserved flag
  EXPECT_EQ(code_after(sample(), set(0, 40, uint8_t{1})), StatusCode::kUnsupported);     // reserved bytes
  EXPECT_EQ(code_after(sample(), set(0, 8, uint64_t{64})), StatusCode::kCorrupt);        // inside the table
  EXPECT_EQ(code_after(sample(), set(1, 8, uint64_t{entry(3)})), StatusCode::kCorrupt);  // overlap
  EXPECT_EQ(code_after(sample(), set(1, 8, UINT64_MAX - 10)), StatusCode::kCorrupt);
  EXPECT_EQ(code_after(sample(), set(1, 16, UINT64_MAX)), StatusCode::kLimit);
  EXPECT_EQ(code_after(sample(), set(0, 24, uint64_t{4})), StatusCode::kCorrupt);        // size without deflate
  EXPECT_EQ(code_after(sample(), set(1, 24, uint64_t{1} << 20)), StatusCode::kCorrupt);  // above 1032 times
  EXPECT_EQ(code_after(sample(),
                       [&](auto& b) {
                         set(0, 0, uint32_t{7})(b);  // DATA with a CRC
                       }),
            StatusCode::kCorrupt);
}

TEST(Inflate, ExactlyOrNotAtAll) {
  const std::vector<uint8_t> plain(5000, 3);
  std::vector<uint8_t> z = deflate_bytes(plain);
  EXPECT_EQ(*inflate_exact(z, 5000, "x"), plain);
  EXPECT_TRUE(inflate_exact(deflate_bytes({}), 0, "x")->empty());
  EXPECT_EQ(inflate_exact(z, 4999, "x").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(inflate_exact(z, 5001, "x").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(inflate_exact(z, uint64_t{1} << 40, "x").status().code(), StatusCode::kCorrupt);  // before allocating
  EXPECT_EQ(inflate_exact({}, 0, "x").status().code(), StatusCode::kCorrupt);
  z.push_back(0);
  EXPECT_EQ(inflate_exact(z, 5000, "x").status().code(), StatusCode::kCorrupt);
  z.resize(z.size() - 4);
  EXPECT_EQ(inflate_exact(z, 5000, "x").status().code(), StatusCode::kCorrupt);
}

TEST(Metadata, RoundTripAndLimits) {
  const Metadata m = {{"a", "1"}, {"b", ""}, {"ключ", "значение"}};
  const std::vector<uint8_t> bytes = serialize(m);
  EXPECT_EQ(*parse_metadata(bytes, 0), m);
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(parse_metadata(Bytes(bytes).first(size), 0).ok());
  const auto code = [](std::initializer_list<int> list) {
    return parse_metadata(std::vector<uint8_t>(list.begin(), list.end()), 0).status().code();
  };
  EXPECT_EQ(code({0, 0, 0, 0, 0}), StatusCode::kCorrupt);                                             // trailing
  EXPECT_EQ(code({2, 0, 0, 0, 1, 0, 'k', 0, 0, 0, 0, 1, 0, 'k', 0, 0, 0, 0}), StatusCode::kCorrupt);  // key twice
  EXPECT_EQ(code({1, 0, 0, 0, 1, 0, 0xff, 0, 0, 0, 0}), StatusCode::kCorrupt);                        // not UTF-8
  EXPECT_EQ(code({1, 0, 1, 0}), StatusCode::kLimit);
  EXPECT_EQ(code({1, 0, 0, 0, 1, 4}), StatusCode::kLimit);
  EXPECT_EQ(code({1, 0, 0, 0, 1, 0, 'k', 1, 0, 0, 1}), StatusCode::kLimit);
}

TEST(Utf8, Edges) {
  for (const char* good : {"", "a", "\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_valid_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc2\x41"})
    EXPECT_FALSE(is_valid_utf8(bad)) << bad;
}

}  // namespace
}  // namespace nwc
