// Normalization forms against Unicode's own examples, and the steps of a tokenizer's normalizer.
#include <gtest/gtest.h>

#include "runtime/model/normal_form.h"
#include "runtime/model/normalizer.h"
#include "runtime/model/tokenizer.h"
#include "runtime/model/unicode.h"

namespace nwc {
namespace {

std::string utf8(std::initializer_list<uint32_t> codes) {
  std::string text;
  for (const uint32_t code : codes) append_utf8(code, &text);
  return text;
}

// From NormalizationTest.txt of Unicode: source, NFC, NFD, NFKC, NFKD.
TEST(NormalForm, UnicodesExamples) {
  struct Case {
    std::string source, nfc, nfd, nfkc, nfkd;
  };
  const Case cases[] = {
      {utf8({0x1e0a}), utf8({0x1e0a}), utf8({0x44, 0x307}), utf8({0x1e0a}), utf8({0x44, 0x307})},
      {utf8({0x1e0a, 0x323}), utf8({0x1e0c, 0x307}), utf8({0x44, 0x323, 0x307}), utf8({0x1e0c, 0x307}),
       utf8({0x44, 0x323, 0x307})},
      {utf8({0x212b}), utf8({0xc5}), utf8({0x41, 0x30a}), utf8({0xc5}), utf8({0x41, 0x30a})},
      {utf8({0xfb01}), utf8({0xfb01}), utf8({0xfb01}), "fi", "fi"},
      {utf8({0x2126}), utf8({0x3a9}), utf8({0x3a9}), utf8({0x3a9}), utf8({0x3a9})},
      {utf8({0x958}), utf8({0x915, 0x93c}), utf8({0x915, 0x93c}), utf8({0x915, 0x93c}), utf8({0x915, 0x93c})},
      {utf8({0xac01}), utf8({0xac01}), utf8({0x1100, 0x1161, 0x11a8}), utf8({0xac01}), utf8({0x1100, 0x1161, 0x11a8})},
      {utf8({0x1100, 0xac00, 0x11a8}), utf8({0x1100, 0xac01}), utf8({0x1100, 0x1100, 0x1161, 0x11a8}),
       utf8({0x1100, 0xac01}), utf8({0x1100, 0x1100, 0x1161, 0x11a8})},
      {utf8({0x1d160}), utf8({0x1d158, 0x1d165, 0x1d16e}), utf8({0x1d158, 0x1d165, 0x1d16e}),
       utf8({0x1d158, 0x1d165, 0x1d16e}), utf8({0x1d158, 0x1d165, 0x1d16e})},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(to_normal_form(c.source, NormalForm::kNfc), c.nfc);
    EXPECT_EQ(to_normal_form(c.source, NormalForm::kNfd), c.nfd);
    EXPECT_EQ(to_normal_form(c.source, NormalForm::kNfkc), c.nfkc);
    EXPECT_EQ(to_normal_form(c.source, NormalForm::kNfkd), c.nfkd);
  }
}

// NFC of NFD is NFC, for every character alone and behind a letter and before a mark.
TEST(NormalForm, FormsAgreeWithEachOther) {
  for (uint32_t code = 1; code < 0x110000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    if (code > 0x3100 && code % 16 != 0 && !(code >= 0xf900 && code < 0x10000)) continue;
    const std::string text = utf8({'o', code, 0x301});
    const std::string nfd = to_normal_form(text, NormalForm::kNfd), nfc = to_normal_form(text, NormalForm::kNfc);
    EXPECT_EQ(to_normal_form(nfd, NormalForm::kNfc), nfc) << code;
    EXPECT_EQ(to_normal_form(nfc, NormalForm::kNfd), nfd) << code;
    EXPECT_EQ(to_normal_form(nfc, NormalForm::kNfc), nfc) << code;
  }
}

TEST(NormalForm, InvalidBytesStayAndSeparate) {
  EXPECT_EQ(to_normal_form("e\xff\xcc\x81", NormalForm::kNfc), "e\xff\xcc\x81");
  EXPECT_EQ(to_normal_form("e\xcc\x81\xcc", NormalForm::kNfc), "\xc3\xa9\xcc");
  std::string marks = "a";
  for (int i = 0; i < 1 << 17; ++i) marks += i % 2 == 0 ? "\xcc\x81" : "\xcc\xa3";
  EXPECT_EQ(to_normal_form(marks, NormalForm::kNfd).size(), marks.size()) << "in time";
}

TEST(Unicode, LowerCase) {
  const auto lower = [](uint32_t code) {
    std::string text;
    append_lower_case(code, &text);
    return text;
  };
  EXPECT_EQ(lower('Q'), "q");
  EXPECT_EQ(lower(0xc9), utf8({0xe9}));
  EXPECT_EQ(lower(0x100), utf8({0x101}));
  EXPECT_EQ(lower(0x130), utf8({'i', 0x307}));
  EXPECT_EQ(lower(0x10400), utf8({0x10428}));
  EXPECT_EQ(lower(0x4e00), utf8({0x4e00}));
}

std::string apply(std::vector<NormalizerStep> steps, std::string_view text, std::vector<uint8_t> charsmap = {}) {
  TokenizerRecord record;
  record.normalizer = std::move(steps);
  record.charsmap = std::move(charsmap);
  const auto normalizer = Normalizer::create(record);
  EXPECT_TRUE(normalizer.ok()) << normalizer.status().message();
  const auto result = normalizer->apply(text);
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : "";
}

TEST(Normalizer, Steps) {
  using enum NormalizerOp;
  EXPECT_EQ(apply({{kNfd}, {kDropMarks}, {kLowercase}}, "\xc3\x89T\xc3\x89"), "ete");
  EXPECT_EQ(apply({{kReplace, "aa", "b"}}, "aaaa a aaa"), "bb a ba");
  EXPECT_EQ(apply({{kReplace, "a", ""}}, "banana"), "bnn");
  EXPECT_EQ(apply({{kPrepend, "", "> "}}, "x"), "> x");
  EXPECT_EQ(apply({{kPrepend, "", "> "}}, ""), "");
  EXPECT_EQ(apply({{kStripLeft}}, " \n\xc2\xa0x "), "x ");
  EXPECT_EQ(apply({{kStripRight}}, " x \xe3\x80\x80\t"), " x");
  EXPECT_EQ(apply({{kStripRight}}, "  "), "");
  EXPECT_EQ(apply({{kCollapseSpaces, "", "_"}}, "a b  c    d"), "a b_c_d");
  EXPECT_EQ(apply({{kCleanText}}, std::string_view("a\0\tb\x7f\xef\xbf\xbd\xe2\x80\x8b!", 12)), "a b!");
  EXPECT_EQ(apply({{kPadChinese}},
                  "a\xe4\xb8\xad"
                  "b"),
            "a \xe4\xb8\xad b");
  EXPECT_EQ(apply({{kDropNonSpacing}}, "e\xcc\x81\xe0\xa4\x83"), "e\xe0\xa4\x83");
}

// A trie with "a" -> "xyz": the root's unit leads to unit 'a' ^ offset, which has a leaf.
std::vector<uint8_t> small_charsmap(std::string_view replacement) {
  constexpr uint32_t kRootOffset = 256, kLeafOffset = 512;
  std::vector<uint32_t> units(1024, 0);
  units[0] = kRootOffset << 10;
  units[kRootOffset ^ 'a'] = kLeafOffset << 10 | 0x100 | 'a';
  units[kRootOffset ^ 'a' ^ kLeafOffset] = 0x80000000;  // the text at offset 0
  std::vector<uint8_t> bytes(4 + 4 * units.size());
  store_le<uint32_t>(bytes.data(), static_cast<uint32_t>(4 * units.size()));
  for (size_t i = 0; i < units.size(); ++i) store_le(&bytes[4 + 4 * i], units[i]);
  bytes.insert(bytes.end(), replacement.begin(), replacement.end());
  bytes.push_back(0);
  return bytes;
}

TEST(Normalizer, Charsmap) {
  EXPECT_EQ(apply({{NormalizerOp::kCharsmap}}, "banana", small_charsmap("xyz")), "bxyznxyznxyz");
  EXPECT_EQ(apply({{NormalizerOp::kCharsmap}},
                  "a\xcc\x81"
                  "b",
                  small_charsmap("x")),
            "xb")
      << "a short cluster is looked up as a whole";
  TokenizerRecord record;
  record.normalizer = {{NormalizerOp::kCharsmap}};
  for (std::vector<uint8_t> bad : {std::vector<uint8_t>{1, 2, 3}, std::vector<uint8_t>{255, 0, 0, 0, 0, 0, 0, 0},
                                   std::vector<uint8_t>{2, 0, 0, 0, 0, 0, 0, 0}}) {
    record.charsmap = std::move(bad);
    EXPECT_EQ(Normalizer::create(record).status().code(), StatusCode::kCorrupt);
  }
}

// Steps that grow the text again and again are stopped, by their sizes, not by the memory.
TEST(Normalizer, ExpansionIsLimited) {
  TokenizerRecord record;
  record.normalizer.assign(32, {NormalizerOp::kReplace, "a", std::string(1024, 'a')});
  const auto normalizer = Normalizer::create(record);
  ASSERT_TRUE(normalizer.ok());
  EXPECT_EQ(normalizer->apply("aaa").status().code(), StatusCode::kLimit);
  record.normalizer = {{NormalizerOp::kCharsmap}};
  record.charsmap = small_charsmap(std::string(1u << 20, 'x'));
  const auto mapped = Normalizer::create(record);
  EXPECT_EQ(mapped->apply(std::string(1000, 'a')).status().code(), StatusCode::kLimit);
}

}  // namespace
}  // namespace nwc
