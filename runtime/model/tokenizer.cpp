// Takes control and user-defined tokens out of the text; a StretchEncoder does what lies between them.
#include "runtime/model/tokenizer.h"

#include "runtime/base/str_cat.h"
#include "runtime/model/stretch_encoder.h"
#include "runtime/model/token_matcher.h"

namespace nwc {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;
/// Places of the text that special tokens are looked for at a time.
constexpr size_t kPlaces = 16384;

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerRecord r, TokenMatcher user, TokenMatcher all)
      : record(std::move(r)),
        user_defined(std::move(user)),
        special(std::move(all)),
        encoder(record.kind == TokenizerKind::kByteLevelBpe ? make_byte_level_encoder(record)
                                                            : make_sentencepiece_encoder(record)) {}

  // The members below point into the record: Impl is neither copied nor moved.
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  const TokenizerRecord record;
  const TokenMatcher user_defined;
  const TokenMatcher special;
  const std::unique_ptr<StretchEncoder> encoder;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::create(TokenizerRecord record) {
  assert(validate(record).ok());
  NWC_ASSIGN_OR_RETURN(TokenMatcher user_defined, TokenMatcher::create(record.tokens, {TokenType::kUserDefined}));
  NWC_ASSIGN_OR_RETURN(TokenMatcher special,
                       TokenMatcher::create(record.tokens, {TokenType::kUserDefined, TokenType::kControl}));
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<Impl>(std::move(record), std::move(user_defined), std::move(special))));
}

Result<std::vector<uint32_t>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return limit_error(
        str_cat("the text has ", text.size(), " bytes, the limit is ", kMaxTextBytes, "; encode it in parts"));
  }
  std::vector<uint32_t> ids;
  if (options.add_special && impl_->record.add_bos) ids.push_back(impl_->record.bos_id);
  const TokenMatcher& special = options.parse_special ? impl_->special : impl_->user_defined;
  size_t stretch = 0;
  const auto flush = [&](size_t end) -> Status {
    if (end == stretch) return {};
    return impl_->encoder->encode(text.substr(stretch, end - stretch), stretch == 0, &ids);
  };
  if (!special.empty()) {
    std::vector<uint32_t> found;  // at the places from `first` on
    for (size_t pos = 0, first = 0; pos < text.size();) {
      if (pos >= first + found.size()) {
        first = pos;
        found.resize(std::min(kPlaces, text.size() - first));
        special.find(text, first, found);
      }
      const uint32_t id = found[pos - first];
      if (id == TokenMatcher::kNone) {
        ++pos;
        continue;
      }
      NWC_TRY(flush(pos));
      ids.push_back(id);
      pos += impl_->record.tokens[id].bytes.size();
      stretch = pos;
    }
  }
  NWC_TRY(flush(text.size()));
  return ids;
}

std::string_view Tokenizer::token_bytes(uint32_t id) const {
  if (id >= impl_->record.tokens.size()) return {};
  const TokenizerRecord::Token& token = impl_->record.tokens[id];
  if (token.type == TokenType::kControl || token.type == TokenType::kUnknown) return {};
  return token.bytes;
}

std::string Tokenizer::decode(const std::vector<uint32_t>& ids) const {
  std::string text;
  for (uint32_t id : ids) text.append(token_bytes(id));
  const bool has_dummy_prefix =
      impl_->record.kind == TokenizerKind::kSentencePieceBpe && impl_->record.add_prefix_space;
  if (has_dummy_prefix && !text.empty() && text[0] == ' ') text.erase(0, 1);
  return text;
}

uint32_t Tokenizer::vocab_size() const { return static_cast<uint32_t>(impl_->record.tokens.size()); }
const TokenizerRecord& Tokenizer::record() const { return impl_->record; }

}  // namespace nwc
