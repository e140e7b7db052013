// The longest token at every place, whatever the tokens are, in a number of steps that they do not change.
#include <gtest/gtest.h>

#include <optional>
#include <random>

#include "runtime/model/token_matcher.h"
#include "runtime/model/tokenizer.h"

namespace nwc {
namespace {

std::vector<TokenizerRecord::Token> tokens_of(const std::vector<std::string>& texts) {
  std::vector<TokenizerRecord::Token> tokens;
  for (const std::string& text : texts) tokens.push_back({text, TokenType::kUserDefined, 0});
  return tokens;
}

TokenMatcher matcher_of(const std::vector<TokenizerRecord::Token>& tokens) {
  auto matcher = TokenMatcher::create(tokens, {TokenType::kUserDefined});
  EXPECT_TRUE(matcher.ok());
  return std::move(matcher).value();
}

uint32_t longest_at(const std::vector<TokenizerRecord::Token>& tokens, std::string_view text, size_t pos) {
  uint32_t best = TokenMatcher::kNone;
  size_t length = 0;
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    const std::string& bytes = tokens[id].bytes;
    if (tokens[id].type != TokenType::kUserDefined || bytes.size() <= length) continue;
    if (text.substr(pos, bytes.size()) != bytes) continue;
    best = id;
    length = bytes.size();
  }
  return best;
}

TEST(TokenMatcher, FindsWhatAComparisonWithEveryTokenFinds) {
  std::mt19937 rng(1);
  for (int round = 0; round < 200; ++round) {
    const size_t alphabet = 1 + rng() % 3;
    const auto noise = [&](size_t most) {
      std::string s(rng() % (most + 1), 'a');
      for (char& c : s) c = static_cast<char>('a' + rng() % alphabet);
      return s;
    };
    std::vector<std::string> texts;
    for (size_t i = rng() % 12; i-- > 0;) texts.push_back(noise(7));  // empty ones and equal ones among them
    std::vector<TokenizerRecord::Token> tokens = tokens_of(texts);
    if (!tokens.empty()) tokens[0].type = TokenType::kNormal;
    const TokenMatcher matcher = matcher_of(tokens);
    const std::string text = noise(60);
    const size_t begin = rng() % (text.size() + 1), count = rng() % (text.size() - begin + 1);
    std::vector<uint32_t> ids(count);
    matcher.find(text, begin, ids);
    for (size_t i = 0; i < count; ++i)
      ASSERT_EQ(ids[i], longest_at(tokens, text, begin + i)) << text << " " << begin + i;
  }
}

// Tokens of 1,024 bytes that nearly match at every place of the text: the steps are bounded by the text alone.
TEST(TokenMatcher, LongTokensTakeNoMoreStepsThanShortOnes) {
  const std::string text(1u << 18, 'a');
  std::vector<std::vector<std::string>> sets = {{std::string(1023, 'a') + "b"}, {"b" + std::string(1023, 'a')}, {}};
  for (size_t n = 1; n <= 1024; n *= 2) sets[2].push_back(std::string(n - 1, 'a') + "b");
  sets.push_back({std::string(1024, 'a'), std::string(512, 'a') + "b" + std::string(511, 'a')});
  for (const std::vector<std::string>& set : sets) {
    const TokenMatcher matcher = matcher_of(tokens_of(set));
    std::vector<uint32_t> ids(text.size());
    EXPECT_LE(matcher.find(text, 0, ids), 2 * (text.size() + matcher.longest()));
    uint64_t in_pieces = 0;
    for (size_t begin = 0; begin < text.size(); begin += 16384)
      in_pieces += matcher.find(text, begin, std::span(ids).subspan(begin, 16384));
    EXPECT_LE(in_pieces, 2 * (text.size() + text.size() / 16384 * matcher.longest()));
  }
}

TEST(TokenMatcher, TooManyBytesAreALimit) {
  const std::vector<std::string> texts(TokenMatcher::kMaxBytes / 1024 + 1, std::string(1024, 'x'));
  const auto matcher = TokenMatcher::create(tokens_of(texts), {TokenType::kUserDefined});
  EXPECT_EQ(matcher.status().code(), StatusCode::kLimit);
  EXPECT_TRUE(TokenMatcher::create(tokens_of(texts), {TokenType::kControl}).ok());
}

// Special tokens across the pieces in which the tokenizer looks for them.
TEST(TokenMatcher, TokenizerFindsThemWhereverTheyLie) {
  TokenizerRecord record;
  for (int b = 0; b < 256; ++b) record.tokens.push_back({std::string(1, static_cast<char>(b)), TokenType::kNormal, 0});
  record.tokens.push_back({"<sep>", TokenType::kUserDefined, 0});
  record.tokens.push_back({"<sep><sep>", TokenType::kUserDefined, 0});
  const auto tokenizer = Tokenizer::create(record);
  ASSERT_TRUE(tokenizer.ok());
  for (size_t before = 16384 - 12; before < 16384 + 2; ++before) {
    const std::string text = std::string(before, 'x') + "<sep><sep><sep>y<sep";
    std::vector<uint32_t> want(before, 'x');
    for (const uint32_t id : {257u, 256u, uint32_t{'y'}, uint32_t{'<'}, uint32_t{'s'}, uint32_t{'e'}, uint32_t{'p'}})
      want.push_back(id);
    const auto ids = (*tokenizer)->encode(text, {.add_special = false, .parse_special = false});
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, want) << before;
  }
}

}  // namespace
}  // namespace nwc
