// Tokens by their bytes: what a comparison with every token finds, whatever the tokens have in common.
#include <gtest/gtest.h>

#include <random>

#include "runtime/model/token_index.h"

namespace nwc {
namespace {

using Tokens = std::vector<TokenizerRecord::Token>;

std::optional<uint32_t> first_of(const Tokens& tokens, TokenType type, std::string_view bytes) {
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    const TokenizerRecord::Token& token = tokens[id];
    const bool decodes_only = (token.options & TokenizerRecord::kDecodesOnly) != 0;
    if (token.type == type && !decodes_only && !bytes.empty() && token.bytes == bytes) return id;
  }
  return std::nullopt;
}

TEST(TokenIndex, FindsWhatAComparisonWithEveryTokenFinds) {
  std::mt19937 random(1);
  // Bytes 0 look like the end of a token, 255 has a sign; many tokens agree in more than their first eight bytes.
  const std::string alphabet("\0a\xff", 3);
  const auto text = [&](size_t most) {
    std::string s(random() % 3 == 0 ? "aaaaaaa" : "");
    for (size_t n = random() % (most + 1); n > 0; --n) s.push_back(alphabet[random() % alphabet.size()]);
    return s;
  };
  for (const size_t count : {0u, 1u, 2u, 700u}) {
    Tokens tokens(count);
    for (TokenizerRecord::Token& token : tokens) {
      token.bytes = text(6);
      if (random() % 5 == 0) token.type = TokenType::kControl;
      if (random() % 9 == 0) token.options = TokenizerRecord::kDecodesOnly;
    }
    const TokenIndex index(tokens, {TokenType::kNormal});
    for (const TokenizerRecord::Token& token : tokens) {
      EXPECT_EQ(index.find(token.bytes), first_of(tokens, TokenType::kNormal, token.bytes));
    }
    for (int i = 0; i < 2000; ++i) {
      const std::string wanted = text(7);
      EXPECT_EQ(index.find(wanted), first_of(tokens, TokenType::kNormal, wanted)) << wanted.size();
    }
  }
}

}  // namespace
}  // namespace nwc
