// Takes control and user-defined tokens out of the text; a StretchEncoder does what lies between them.
#include "runtime/model/tokenizer.h"

#include "runtime/base/str_cat.h"
#include "runtime/model/added_tokens.h"
#include "runtime/model/normalizer.h"
#include "runtime/model/stretch_encoder.h"

namespace nwc {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

Result<std::unique_ptr<StretchEncoder>> make_encoder(const TokenizerRecord& record) {
  switch (record.kind) {
    case TokenizerKind::kByteLevelBpe: return make_byte_level_encoder(record);
    case TokenizerKind::kSentencePieceBpe:
    case TokenizerKind::kUnigram: return make_sentencepiece_encoder(record);
    case TokenizerKind::kWordPiece: return make_wordpiece_encoder(record);
  }
  return unsupported("tokenizer of an unknown kind");
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(TokenizerRecord r) : own(std::move(r)), record(*own) {}
  explicit Impl(const TokenizerRecord* outside) : record(*outside) {}

  // The members below point into the record: Impl is neither copied nor moved.
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Status init() {
    NWC_ASSIGN_OR_RETURN(normalizer, Normalizer::create(record));
    for (const bool control : {false, true}) {
      for (const bool normalized : {false, true}) {
        NWC_ASSIGN_OR_RETURN(added[control][normalized], AddedTokens::create(record, *normalizer, normalized, control));
      }
    }
    NWC_ASSIGN_OR_RETURN(encoder, make_encoder(record));
    return {};
  }

  /// What stands in front of a text: the one place that decides it.
  std::vector<uint32_t> before() const {
    std::vector<uint32_t> ids;
    if (record.add_bos) ids.push_back(record.bos_id);
    ids.insert(ids.end(), record.more_before.begin(), record.more_before.end());
    return ids;
  }

  /// What is left when raw tokens have been taken out.
  Status encode_stretch(std::string_view stretch, bool begins_text, const AddedTokens& normalized,
                        std::vector<uint32_t>* ids) const {
    std::string normal;
    if (!normalizer->empty()) {
      NWC_ASSIGN_OR_RETURN(normal, normalizer->apply(stretch));
      stretch = normal;
    }
    if (normalized.empty()) return stretch.empty() ? Status() : encoder->encode(stretch, begins_text, ids);
    std::vector<TextPart> parts;
    normalized.split(stretch, &parts);
    for (const TextPart& part : parts) {
      if (part.id != TokenMatcher::kNone) {
        ids->push_back(part.id);
      } else {
        NWC_TRY(
            encoder->encode(stretch.substr(part.begin, part.end - part.begin), begins_text && part.begin == 0, ids));
      }
    }
    return {};
  }

  const std::optional<TokenizerRecord> own;
  const TokenizerRecord& record;
  std::optional<Normalizer> normalizer;
  std::optional<AddedTokens> added[2][2];  ///< [with control tokens][those that are normalised]
  std::unique_ptr<StretchEncoder> encoder;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::create(TokenizerRecord record) {
  assert(validate(record).ok());
  auto impl = std::make_unique<Impl>(std::move(record));
  NWC_TRY(impl->init());
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::create_from(const TokenizerRecord& record) {
  assert(validate(record).ok());
  auto impl = std::make_unique<Impl>(&record);
  NWC_TRY(impl->init());
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

Result<std::vector<uint32_t>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return limit_error(
        str_cat("the text has ", text.size(), " bytes, the limit is ", kMaxTextBytes, "; encode it in parts"));
  }
  std::vector<uint32_t> ids;
  if (options.add_special) ids = impl_->before();
  const auto& added = impl_->added[options.parse_special];
  std::vector<TextPart> parts;
  added[0]->split(text, &parts);
  for (const TextPart& part : parts) {
    if (part.id != TokenMatcher::kNone) {
      ids.push_back(part.id);
    } else {
      NWC_TRY(impl_->encode_stretch(text.substr(part.begin, part.end - part.begin), part.begin == 0, *added[1], &ids));
    }
  }
  if (options.add_end) ids.insert(ids.end(), impl_->record.after.begin(), impl_->record.after.end());
  return ids;
}

Result<std::vector<uint32_t>> Tokenizer::encode_windows(std::string_view text, uint32_t window) const {
  NWC_ASSIGN_OR_RETURN(std::vector<uint32_t> ids, encode(text, {.add_special = false}));
  const std::vector<uint32_t> before = impl_->before();
  // A window that has room for no more than these is better off without.
  if (before.empty() || window < before.size() + 2) return ids;
  std::vector<uint32_t> windows;
  const size_t room = window - before.size();
  for (size_t begin = 0; begin < ids.size(); begin += room) {
    windows.insert(windows.end(), before.begin(), before.end());
    const size_t end = std::min(ids.size(), begin + room);
    windows.insert(windows.end(), ids.begin() + static_cast<ptrdiff_t>(begin),
                   ids.begin() + static_cast<ptrdiff_t>(end));
  }
  return windows;
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
  if (impl_->record.drops_leading_space() && !text.empty() && text[0] == ' ') text.erase(0, 1);
  return text;
}

uint32_t Tokenizer::vocab_size() const { return static_cast<uint32_t>(impl_->record.tokens.size()); }
const TokenizerRecord& Tokenizer::record() const { return impl_->record; }

}  // namespace nwc
