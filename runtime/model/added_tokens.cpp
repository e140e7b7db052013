#include "runtime/model/added_tokens.h"

#include <algorithm>

#include "runtime/model/unicode.h"

namespace nwc {
namespace {

/// Places of the text that tokens are looked for at a time.
constexpr size_t kPlaces = 16384;

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word_character(decode_utf8(text, previous_utf8(text, begin)).value)) return false;
  return end == text.size() || !is_word_character(decode_utf8(text, end).value);
}

}  // namespace

Result<AddedTokens> AddedTokens::create(const TokenizerRecord& record, const Normalizer& normalizer, bool normalized,
                                        bool control) {
  std::vector<TokenMatcher::Text> texts;
  std::vector<uint32_t> lengths;
  uint64_t total = 0;
  for (uint32_t id = 0; id < record.tokens.size(); ++id) {
    const TokenizerRecord::Token& token = record.tokens[id];
    if (token.type != TokenType::kUserDefined && !(control && token.type == TokenType::kControl)) continue;
    if (((token.options & TokenizerRecord::kNormalized) != 0) != normalized) continue;
    std::string text = token.bytes;
    if (normalized && !normalizer.empty()) {
      NWC_ASSIGN_OR_RETURN(text, normalizer.apply(text));
      lengths.resize(record.tokens.size());
      lengths[id] = static_cast<uint32_t>(text.size());
    }
    total += text.size();
    texts.push_back({std::move(text), id});
    if (total > TokenMatcher::kMaxBytes) break;  // which TokenMatcher refuses, before more is held in memory
  }
  NWC_ASSIGN_OR_RETURN(TokenMatcher matcher, TokenMatcher::create(std::move(texts)));
  return AddedTokens(&record, std::move(matcher), std::move(lengths));
}

void AddedTokens::split(std::string_view text, std::vector<TextPart>* parts) const {
  size_t stretch = 0;
  const auto flush = [&](size_t end) {
    if (stretch < end) parts->push_back({stretch, end, TokenMatcher::kNone});
  };
  std::vector<uint32_t> found;  // at the places from `first` on
  for (size_t pos = 0, first = 0; pos < text.size() && !matcher_.empty();) {
    if (pos >= first + found.size()) {
      first = pos;
      found.resize(std::min(kPlaces, text.size() - first));
      matcher_.find(text, first, found);
    }
    const uint32_t id = found[pos - first];
    if (id == TokenMatcher::kNone) {
      ++pos;
      continue;
    }
    size_t begin = pos, end = pos + length(id);
    pos = end;
    const uint8_t options = record_->tokens[id].options;
    if ((options & TokenizerRecord::kSingleWord) != 0 && !stands_alone(text, begin, end)) continue;
    while ((options & TokenizerRecord::kStripsLeft) != 0 && begin > stretch) {
      const size_t before = previous_utf8(text, begin);
      if (before < stretch || !is_white_space(decode_utf8(text, before).value)) break;
      begin = before;
    }
    while ((options & TokenizerRecord::kStripsRight) != 0 && end < text.size()) {
      const CodePoint c = decode_utf8(text, end);
      if (!is_white_space(c.value)) break;
      end += c.length;
    }
    flush(begin);
    parts->push_back({begin, end, id});
    stretch = end;
  }
  flush(text.size());
}

}  // namespace nwc
