// Character classes, UTF-8 and the matchers that stand for regular expressions. Expected pieces follow from the
// patterns in doc/format_model.md; equality with the reference library on whole texts is test_tokenizer's part.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/model/pre_tokenizer.h"

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

TEST(Unicode, Classes) {
  for (uint32_t c : {0x41u, 0x7au, 0xaau, 0xe9u, 0x3b1u, 0x4e2du, 0xac00u, 0x1d400u, 0x30000u}) {
    EXPECT_EQ(char_class(c), CharClass::kLetter) << c;
  }
  for (uint32_t c : {0x30u, 0xb2u, 0xbdu, 0x660u, 0x2167u, 0x3007u, 0xff11u, 0x1d7d8u}) {
    EXPECT_EQ(char_class(c), CharClass::kNumber) << c;
  }
  for (uint32_t c : {0x09u, 0x0du, 0x20u, 0x85u, 0xa0u, 0x1680u, 0x2009u, 0x2028u, 0x202fu, 0x205fu, 0x3000u}) {
    EXPECT_EQ(char_class(c), CharClass::kSpace) << c;
  }
  for (uint32_t c : {0x00u, 0x1cu, 0x27u, 0x5fu, 0x7fu, 0x200bu, 0x301u, 0x1f44du, 0xfeffu, 0x10ffffu, 0x110000u,
                     kInvalidCodePoint}) {
    EXPECT_EQ(char_class(c), CharClass::kOther) << c;
  }
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
    for (PreTokenizer kind :
         {PreTokenizer::kNone, PreTokenizer::kGpt2, PreTokenizer::kSmolLm2, PreTokenizer::kLlama3}) {
      std::string joined;
      for (const std::string& piece : split(kind, text)) joined += piece;
      EXPECT_EQ(joined, text);
    }
  }
}

}  // namespace
}  // namespace nwc
