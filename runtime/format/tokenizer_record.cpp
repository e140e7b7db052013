// Layout and rules: doc/format_model.md, section TOKENIZER.
#include "runtime/format/tokenizer_record.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "runtime/base/str_cat.h"
#include "runtime/format/tokenizer_parts.h"

namespace nwc {
namespace {

constexpr uint32_t kMaxTokens = 1u << 22;
constexpr uint32_t kMaxMerges = 1u << 23;
constexpr size_t kMaxTokenBytes = 1024;
constexpr uint32_t kNone = UINT32_MAX;

constexpr uint8_t kFlagPrefixSpace = 1;
constexpr uint8_t kFlagIgnoreMerges = 2;
constexpr uint8_t kFlagByteFallback = 4;
constexpr uint8_t kFlagAddBos = 8;
constexpr uint8_t kFlagPrefixFirstOnly = 16;
constexpr uint8_t kFlagPrefixUnlessSpace = 32;
constexpr uint8_t kFlagDropLeadingSpace = 64;
constexpr uint8_t kFlagKeepLeadingSpace = 128;
constexpr uint8_t kFlagsOfVersion1 = 63;
constexpr uint8_t kMoreUnfusedUnknown = 1;  // in the byte that is reserved in version 1

Status check_count(uint64_t value, uint64_t max, const char* what) {
  if (value <= max) return {};
  return limit_error(str_cat("tokenizer has ", value, " ", what, ", the limit is ", max));
}

// Kinds that a newer version may have.
Status check_known(const TokenizerRecord& record) {
  const auto kind = static_cast<uint32_t>(record.kind);
  if (kind < 1 || kind > 4) return unsupported(str_cat("tokenizer kind is ", kind, ", known are 1 to 4"));
  if (record.pre_tokenizer > kLastPreTokenizer) {
    return unsupported(str_cat("pre-tokenizer is ", static_cast<uint32_t>(record.pre_tokenizer), ", known are 0 to ",
                               static_cast<uint32_t>(kLastPreTokenizer)));
  }
  return {};
}

// Text is made of characters with a space for U+2581, and a space may be put in front.
bool has_characters(TokenizerKind kind) {
  return kind == TokenizerKind::kSentencePieceBpe || kind == TokenizerKind::kUnigram;
}

Status check_pre_tokenizer(const TokenizerRecord& record) {
  const PreTokenizer pre = record.pre_tokenizer;
  const bool of_words = pre == PreTokenizer::kWords || pre == PreTokenizer::kBert;
  bool fits = true;
  switch (record.kind) {
    case TokenizerKind::kByteLevelBpe: fits = !of_words && pre != PreTokenizer::kSpaces; break;
    case TokenizerKind::kSentencePieceBpe:
    case TokenizerKind::kUnigram:
      fits = pre == PreTokenizer::kNone || pre == PreTokenizer::kSpaces || pre == PreTokenizer::kWords;
      break;
    case TokenizerKind::kWordPiece: fits = of_words; break;
  }
  if (fits) return {};
  return corrupt(str_cat("pre-tokenizer ", static_cast<uint32_t>(pre), " does not go with a tokenizer of kind ",
                         static_cast<uint32_t>(record.kind)));
}

Status check_header(const TokenizerRecord& record) {
  NWC_TRY(check_known(record));
  NWC_TRY(check_pre_tokenizer(record));
  const bool characters = has_characters(record.kind);
  if (record.kind != TokenizerKind::kByteLevelBpe && record.ignore_merges) {
    return corrupt("ignore_merges needs a byte-level tokenizer");
  }
  if ((record.prefix_first_only || record.prefix_unless_space) && !(characters && record.add_prefix_space)) {
    return corrupt("prefix_first_only and prefix_unless_space need a SentencePiece tokenizer with add_prefix_space");
  }
  if (!characters && record.byte_fallback) return corrupt("byte_fallback needs a SentencePiece tokenizer");
  if (record.unfused_unknown && record.kind != TokenizerKind::kSentencePieceBpe) {
    return corrupt("unfused_unknown needs a SentencePiece BPE tokenizer");
  }
  if (record.drop_leading_space && record.keep_leading_space) {
    return corrupt("the leading space is both kept and dropped");
  }
  if (record.add_prefix_space &&
      (record.kind == TokenizerKind::kWordPiece ||
       (record.kind == TokenizerKind::kByteLevelBpe && record.pre_tokenizer > PreTokenizer::kGpt2))) {
    return corrupt("add_prefix_space does not go with this pre-tokenizer");
  }
  if (record.tokens.empty()) return corrupt("tokenizer has no tokens");
  NWC_TRY(check_count(record.tokens.size(), kMaxTokens, "tokens"));
  NWC_TRY(check_count(record.merges.size(), kMaxMerges, "merges"));
  const uint32_t num_tokens = static_cast<uint32_t>(record.tokens.size());
  if (record.bos_id != kNone && record.bos_id >= num_tokens) {
    return corrupt(str_cat("bos_id is ", record.bos_id, ", the tokenizer has ", num_tokens, " tokens"));
  }
  if (record.add_bos && record.bos_id == kNone) return corrupt("add_bos is set, but there is no bos_id");
  if (record.unk_id != kNone && record.unk_id >= num_tokens) {
    return corrupt(str_cat("unk_id is ", record.unk_id, ", the tokenizer has ", num_tokens, " tokens"));
  }
  const bool needs_unknown =
      record.kind == TokenizerKind::kWordPiece || (record.kind == TokenizerKind::kUnigram && !record.byte_fallback);
  if (needs_unknown && record.unk_id == kNone) return corrupt("this kind of tokenizer needs an unk_id");
  return {};
}

Status check_tokens(const TokenizerRecord& record) {
  std::array<bool, 256> has_byte{};
  for (size_t id = 0; id < record.tokens.size(); ++id) {
    const TokenizerRecord::Token& token = record.tokens[id];
    const auto where = [id]() -> std::string {
      return str_cat("token ", id);
    };  // made for an error alone: there are many tokens
    if (token.bytes.size() > kMaxTokenBytes) {
      return limit_error(str_cat(where(), " has ", token.bytes.size(), " bytes, the limit is ", kMaxTokenBytes));
    }
    if (token.type > TokenType::kUserDefined) {
      return unsupported(str_cat(where(), " has type ", static_cast<uint32_t>(token.type), ", known are 0 to 4"));
    }
    if (!std::isfinite(token.score)) return corrupt(str_cat(where(), ": the score is not finite"));
    if (record.kind == TokenizerKind::kSentencePieceBpe && !std::isfinite(static_cast<float>(token.score))) {
      return corrupt(str_cat(where(), ": the score does not fit a float"));
    }
    if (token.type == TokenType::kByte) {
      if (token.bytes.size() != 1) return corrupt(str_cat(where(), " is a byte token, it must have exactly one byte"));
      has_byte[static_cast<uint8_t>(token.bytes[0])] = true;
    }
  }
  if (!record.byte_fallback) return {};
  for (size_t value = 0; value < has_byte.size(); ++value) {
    if (!has_byte[value]) return corrupt(str_cat("byte_fallback is set, but byte ", value, " has no token"));
  }
  return {};
}

Status check_merges(const TokenizerRecord& record) {
  const size_t num_tokens = record.tokens.size();
  for (size_t rank = 0; rank < record.merges.size(); ++rank) {
    const TokenizerRecord::Merge& merge = record.merges[rank];
    if (merge.left >= num_tokens || merge.right >= num_tokens || merge.result >= num_tokens) {
      return corrupt(str_cat("merge ", rank, " names a token beyond the ", num_tokens, " that there are"));
    }
    const std::string& left = record.tokens[merge.left].bytes;
    const std::string& right = record.tokens[merge.right].bytes;
    const std::string& result = record.tokens[merge.result].bytes;
    if (left.empty() || right.empty() || result.size() != left.size() + right.size() ||
        result.compare(0, left.size(), left) != 0 || result.compare(left.size(), right.size(), right) != 0) {
      return corrupt(str_cat("merge ", rank, ": the bytes of token ", merge.result, " are not those of tokens ",
                             merge.left, " and ", merge.right));
    }
  }
  return {};
}

bool needs_version_2(const TokenizerRecord& record) {
  return record.kind > TokenizerKind::kSentencePieceBpe || record.pre_tokenizer > PreTokenizer::kLlama3 ||
         record.unfused_unknown || record.keep_leading_space || record.drop_leading_space ||
         has_tokenizer_parts(record);
}

}  // namespace

Status validate(const TokenizerRecord& record) {
  NWC_TRY(check_header(record));
  NWC_TRY(check_tokens(record));
  NWC_TRY(check_merges(record));
  return check_tokenizer_parts(record);
}

Result<TokenizerRecord> parse_tokenizer_record(Bytes section, uint64_t file_offset) {
  ByteReader reader(section, file_offset);
  TokenizerRecord record;
  uint32_t version = 0, num_tokens = 0, num_merges = 0;
  uint8_t kind = 0, pre_tokenizer = 0, flags = 0, more_flags = 0;
  NWC_TRY(reader.read(&version, "TOKENIZER version"));
  if (version != 1 && version != 2) {
    return unsupported(str_cat("TOKENIZER section at offset ", file_offset, " has record version ", version,
                               ", this build reads 1 and 2; use a newer version of this program"));
  }
  NWC_TRY(reader.read(&kind, "tokenizer kind"));
  NWC_TRY(reader.read(&pre_tokenizer, "pre-tokenizer"));
  NWC_TRY(reader.read(&flags, "tokenizer flags"));
  NWC_TRY(reader.read(&more_flags, "more tokenizer flags"));
  const uint32_t known = version == 1 ? kFlagsOfVersion1 : 255, more_known = version == 1 ? 0 : kMoreUnfusedUnknown;
  if ((flags & ~known) != 0 || (more_flags & ~more_known) != 0) {
    return unsupported(str_cat("TOKENIZER section: reserved bits of bytes 6 and 7 (offset ", file_offset + 6,
                               ") are set (", flags, " and ", more_flags, "), known flags are 0 to ", known,
                               " and 0 to ", more_known));
  }
  record.kind = static_cast<TokenizerKind>(kind);
  record.pre_tokenizer = static_cast<PreTokenizer>(pre_tokenizer);
  // Before the arrays: which there are depends on the kind.
  NWC_TRY(check_known(record).with_context(str_cat("TOKENIZER section at offset ", file_offset)));
  if (version == 1 && (kind > 2 || record.pre_tokenizer > PreTokenizer::kLlama3)) {
    return unsupported(str_cat("TOKENIZER section at offset ", file_offset, ": kind ", kind, " with pre-tokenizer ",
                               pre_tokenizer, " needs record version 2"));
  }
  record.add_prefix_space = (flags & kFlagPrefixSpace) != 0;
  record.ignore_merges = (flags & kFlagIgnoreMerges) != 0;
  record.byte_fallback = (flags & kFlagByteFallback) != 0;
  record.add_bos = (flags & kFlagAddBos) != 0;
  record.prefix_first_only = (flags & kFlagPrefixFirstOnly) != 0;
  record.prefix_unless_space = (flags & kFlagPrefixUnlessSpace) != 0;
  record.drop_leading_space = (flags & kFlagDropLeadingSpace) != 0;
  record.keep_leading_space = (flags & kFlagKeepLeadingSpace) != 0;
  record.unfused_unknown = (more_flags & kMoreUnfusedUnknown) != 0;
  NWC_TRY(reader.read(&record.bos_id, "bos_id"));
  NWC_TRY(reader.read(&record.unk_id, "unk_id"));
  NWC_TRY(reader.read(&num_tokens, "number of tokens"));
  NWC_TRY(reader.read(&num_merges, "number of merges"));
  NWC_TRY(check_count(num_tokens, kMaxTokens, "tokens"));
  NWC_TRY(check_count(num_merges, kMaxMerges, "merges"));

  std::vector<uint16_t> lengths;
  std::vector<uint8_t> types;
  std::vector<float> scores;
  std::vector<double> double_scores;
  NWC_TRY(reader.read_array(&lengths, num_tokens, "token lengths"));
  NWC_TRY(reader.read_array(&types, num_tokens, "token types"));
  if (record.kind == TokenizerKind::kSentencePieceBpe) {
    NWC_TRY(reader.read_array(&scores, num_tokens, "token scores"));
  } else if (record.kind == TokenizerKind::kUnigram) {
    NWC_TRY(reader.read_array(&double_scores, num_tokens, "token scores"));
  }
  // The arrays were there, so num_tokens is in proportion to the section's size and may be allocated.
  record.tokens = std::vector<TokenizerRecord::Token>(num_tokens);
  for (size_t id = 0; id < record.tokens.size(); ++id) {
    TokenizerRecord::Token& token = record.tokens[id];
    NWC_TRY(reader.read_string(&token.bytes, lengths[id], "token bytes"));
    token.type = static_cast<TokenType>(types[id]);
    if (!scores.empty()) token.score = scores[id];
    if (!double_scores.empty()) token.score = double_scores[id];
  }

  std::vector<uint32_t> left, right, result;
  NWC_TRY(reader.read_array(&left, num_merges, "left tokens of merges"));
  NWC_TRY(reader.read_array(&right, num_merges, "right tokens of merges"));
  NWC_TRY(reader.read_array(&result, num_merges, "results of merges"));
  if (version == 2) NWC_TRY(read_tokenizer_parts(&reader, &record));
  NWC_TRY(reader.expect_end("TOKENIZER section"));
  record.merges = std::vector<TokenizerRecord::Merge>(num_merges);
  for (size_t rank = 0; rank < record.merges.size(); ++rank) {
    record.merges[rank] = {left[rank], right[rank], result[rank]};
  }
  NWC_TRY(validate(record).with_context(str_cat("TOKENIZER section at offset ", file_offset)));
  return record;
}

std::vector<uint8_t> serialize(const TokenizerRecord& record) {
  assert(validate(record).ok());
  const uint32_t version = needs_version_2(record) ? 2 : 1;
  uint32_t flags = 0;
  if (record.add_prefix_space) flags |= kFlagPrefixSpace;
  if (record.ignore_merges) flags |= kFlagIgnoreMerges;
  if (record.byte_fallback) flags |= kFlagByteFallback;
  if (record.add_bos) flags |= kFlagAddBos;
  if (record.prefix_first_only) flags |= kFlagPrefixFirstOnly;
  if (record.prefix_unless_space) flags |= kFlagPrefixUnlessSpace;
  if (record.drop_leading_space) flags |= kFlagDropLeadingSpace;
  if (record.keep_leading_space) flags |= kFlagKeepLeadingSpace;
  std::array<uint8_t, 24> header{};
  store_le<uint32_t>(&header[0], version);
  header[4] = static_cast<uint8_t>(record.kind);
  header[5] = static_cast<uint8_t>(record.pre_tokenizer);
  header[6] = static_cast<uint8_t>(flags);
  header[7] = record.unfused_unknown ? kMoreUnfusedUnknown : 0;
  store_le<uint32_t>(&header[8], record.bos_id);
  store_le<uint32_t>(&header[12], record.unk_id);
  store_le<uint32_t>(&header[16], static_cast<uint32_t>(record.tokens.size()));
  store_le<uint32_t>(&header[20], static_cast<uint32_t>(record.merges.size()));
  ByteWriter writer;
  writer.write_bytes(header);
  for (const auto& token : record.tokens) writer.write<uint16_t>(static_cast<uint16_t>(token.bytes.size()));
  for (const auto& token : record.tokens) writer.write<uint8_t>(static_cast<uint8_t>(token.type));
  if (record.kind == TokenizerKind::kSentencePieceBpe) {
    for (const auto& token : record.tokens) writer.write<float>(static_cast<float>(token.score));
  } else if (record.kind == TokenizerKind::kUnigram) {
    for (const auto& token : record.tokens) writer.write<double>(token.score);
  }
  for (const auto& token : record.tokens) writer.write_string(token.bytes);
  for (const auto& merge : record.merges) writer.write<uint32_t>(merge.left);
  for (const auto& merge : record.merges) writer.write<uint32_t>(merge.right);
  for (const auto& merge : record.merges) writer.write<uint32_t>(merge.result);
  if (version == 2) write_tokenizer_parts(record, &writer);
  return writer.take();
}

}  // namespace nwc
