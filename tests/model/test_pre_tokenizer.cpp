// Character classes, UTF-8 and the matchers that stand for regular expressions. Expected pieces follow from the
// patterns in doc/format_model.md; equality with the reference library on whole texts is test_tokenizer's part.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/model/pre_tokenizer.h"
#include "tests/model/tokenizer_fixtures.h"

namespace nwc {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(PreTokenizer kind, std::string_view text) {
  Pieces pieces;
  PieceSplitter splitter(kind, text);
  for (std::string_view piece = splitter.next(); !piece.empty(); piece = splitter.next()) pieces.emplace_back(piece);
  return pieces;
}

TEST(Unicode, DecodesAndRejects) {
  const auto value = [](std::string_view s) { return decode_utf8(s, 0).value; };
  EXPECT_EQ(value("a"), 0x61u);
  EXPECT_EQ(value("\xc3\xa9"), 0xe9u);
  EXPECT_EQ(value("\xe2\x82\xac"), 0x20acu);
  EXPECT_EQ(value("\xf0\x9f\x91\x8d"), 0x1f44du);
  EXPECT_EQ(value("\xf4\x8f\xbf\xbf"), 0x10ffffu);
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "\xe0\x80\x80", "\xe2\x82", "\xed\xa0\x80",
                          "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3\x28"}) {
    const CodePoint c = decode_utf8(bad, 0);
    EXPECT_EQ(c.value, kInvalidCodePoint);
    EXPECT_EQ(c.length, 1u);
  }
}

TEST(Unicode, ReadsBackwards) {
  for (const std::string text :
       {"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x91\x8d!", "\xc3\xe2\x82\xff\xf0\x9f\x91", "\x80\xc3\xa9\xa9"}) {
    std::vector<size_t> begins;
    for (size_t pos = 0; pos < text.size(); pos += decode_utf8(text, pos).length) begins.push_back(pos);
    for (size_t end = text.size(); !begins.empty(); begins.pop_back()) {
      end = previous_utf8(text, end);
      EXPECT_EQ(end, begins.back()) << text;
    }
  }
}

TEST(Unicode, Classes) {
  for (uint32_t c : {0x41u, 0x7au, 0xaau, 0xe9u, 0x3b1u, 0x4e2du, 0xac00u, 0x1d400u, 0x30000u}) {
    EXPECT_NE(char_bits(c) & kLetterBits, 0u) << c;
  }
  for (uint32_t c : {0x30u, 0xb2u, 0xbdu, 0x660u, 0x2167u, 0x3007u, 0xff11u, 0x1d7d8u}) {
    EXPECT_NE(char_bits(c) & kNumberBits, 0u) << c;
  }
  for (uint32_t c : {0x09u, 0x0du, 0x20u, 0x85u, 0xa0u, 0x1680u, 0x2009u, 0x2028u, 0x202fu, 0x205fu, 0x3000u}) {
    EXPECT_NE(char_bits(c) & kSpaceBit, 0u) << c;
  }
  for (uint32_t c : {0x00u, 0x1cu, 0x27u, 0x5fu, 0x7fu, 0x200bu, 0x301u, 0x1f44du, 0xfeffu, 0x10ffffu, 0x110000u,
                     kInvalidCodePoint}) {
    EXPECT_EQ(char_bits(c) & (kLetterBits | kNumberBits | kSpaceBit), 0u) << c;
  }
  EXPECT_EQ(general_class(0x100), GeneralClass::kUpper) << "in a run of both cases in turn";
  EXPECT_EQ(general_class(0x101), GeneralClass::kLower);
  EXPECT_EQ(general_class(0x1c5), GeneralClass::kTitle);
  EXPECT_EQ(general_class(0x301), GeneralClass::kNonSpacingMark);
  EXPECT_EQ(general_class(0x903), GeneralClass::kOtherMark);
  EXPECT_EQ(general_class(0xe000), GeneralClass::kPrivate);
}

TEST(PreTokenizer, Gpt2) {
  EXPECT_EQ(split(PreTokenizer::kGpt2, "it's IT'S we'll x'r"),
            (Pieces{"it", "'s", " IT", "'", "S", " we", "'ll", " x", "'", "r"}));
  EXPECT_EQ(split(PreTokenizer::kGpt2, "a  b \n c  "), (Pieces{"a", " ", " b", " \n", " c", "  "}));
  EXPECT_EQ(split(PreTokenizer::kGpt2, "\tx \t1234!? ..."), (Pieces{"\t", "x", " ", "\t", "1234", "!?", " ..."}));
  EXPECT_EQ(split(PreTokenizer::kGpt2, " 's"), (Pieces{" '", "s"}));
  EXPECT_EQ(split(PreTokenizer::kGpt2, "'"), (Pieces{"'"}));
  EXPECT_EQ(split(PreTokenizer::kGpt2, ""), Pieces{});
}

TEST(PreTokenizer, SmolLm2) {
  EXPECT_EQ(split(PreTokenizer::kSmolLm2, "x  12  y"), (Pieces{"x", "  ", "1", "2", " ", " y"}));
  EXPECT_EQ(split(PreTokenizer::kSmolLm2, "'1'l2l"), (Pieces{"'", "1", "'", "l", "2", "l"}));
  EXPECT_EQ(split(PreTokenizer::kSmolLm2, "a \xc2\xbd"), (Pieces{"a", " ", "\xc2\xbd"}));
}

TEST(PreTokenizer, Llama3) {
  EXPECT_EQ(split(PreTokenizer::kLlama3, "IT'S we'Ll'"), (Pieces{"IT", "'S", " we", "'Ll", "'"}));
  EXPECT_EQ(split(PreTokenizer::kLlama3, "12345678"), (Pieces{"123", "456", "78"}));
  EXPECT_EQ(split(PreTokenizer::kLlama3, " 123\t(x)!\r\n\n y"), (Pieces{" ", "123", "\t", "(x", ")!\r\n\n", " y"}));
  EXPECT_EQ(split(PreTokenizer::kLlama3, "a \n  \n   b"), (Pieces{"a", " \n  \n", "  ", " b"}));
  EXPECT_EQ(split(PreTokenizer::kLlama3, "\nabc"), (Pieces{"\n", "abc"}));
}

TEST(PreTokenizer, Words) {
  EXPECT_EQ(split(PreTokenizer::kSpaces, "a  b c"), (Pieces{"a", " ", " b", " c"}));
  EXPECT_EQ(split(PreTokenizer::kWords, " a,b\t\n c "), (Pieces{"a,b", "c"}));
  EXPECT_EQ(split(PreTokenizer::kBert, " a,b!? $1 "), (Pieces{"a", ",", "b", "!", "?", "$", "1"}));
}

// Every row of the table against the pre-tokenizers of the reference library; tests/data/test_tokenizer_json checks
// that these are the ones that tokenizer.json has for the row.
TEST(PreTokenizer, EveryRowSplitsLikeTheReference) {
  std::vector<std::string> strings = fixture_strings();
  std::erase_if(strings, [](const std::string& text) { return text.size() > 120; });
  const std::vector<std::string> lines = fixture_lines("pre_tokenizers.txt");
  constexpr size_t kRows = 17;
  ASSERT_GT(strings.size(), 250u);
  ASSERT_EQ(lines.size(), kRows * strings.size());
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t i = 0; i < strings.size(); ++i) {
      std::vector<uint32_t> lengths;
      for (const std::string& piece : split(static_cast<PreTokenizer>(row + 1), strings[i])) {
        lengths.push_back(static_cast<uint32_t>(piece.size()));
      }
      EXPECT_EQ(lengths, parse_id_list(lines[row * strings.size() + i])) << "row " << row + 1 << ": " << strings[i];
    }
  }
}

// With a quadratic matcher each of these would take minutes.
TEST(PreTokenizer, LongRunsDoNotStall) {
  for (const std::string unit : {" ", " \n", "a", "A", "Aa", "\xe4\xb8\xad",
                                 "\xe4\xb8\xad"
                                 "A",
                                 "\xcc\x81", "1", "!", "'", "\xff"}) {
    std::string text;
    while (text.size() < (size_t{1} << 19)) text += unit;
    text += "x";
    for (uint8_t row = 0; row <= static_cast<uint8_t>(kLastPreTokenizer); ++row) {
      PieceSplitter splitter(static_cast<PreTokenizer>(row), text);
      size_t bytes = 0;
      for (std::string_view piece = splitter.next(); !piece.empty(); piece = splitter.next()) bytes += piece.size();
      EXPECT_LE(bytes, text.size());
    }
  }
}

TEST(PreTokenizer, PiecesAreTheWholeText) {
  // A deterministic walk over byte strings, most of them invalid UTF-8.
  uint64_t state = 1;
  const std::string alphabet = " \n\r\t'sSlL19a!\xc3\xa9\xe2\x80\x83\xff\xf0\x9f\x91\x8d";
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 24; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      text.push_back(alphabet[(state >> 33) % alphabet.size()]);
    }
    for (uint8_t row = 0; row < static_cast<uint8_t>(PreTokenizer::kWords); ++row) {
      const auto kind = static_cast<PreTokenizer>(row);
      std::string joined;
      for (const std::string& piece : split(kind, text)) joined += piece;
      EXPECT_EQ(joined, text);
    }
  }
}

}  // namespace
}  // namespace nwc
