// Layout and rules: doc/format_model.md, section TOKENIZER, "Parts of version 2".
#include "runtime/format/tokenizer_parts.h"

#include <algorithm>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

enum class Part : uint16_t { kNormalizer = 1, kOptions = 2, kTemplate = 3, kCharsmap = 4, kWordPiece = 5 };

constexpr size_t kMaxSteps = 32;
constexpr size_t kMaxStepBytes = 1024;
constexpr size_t kMaxSpecials = 8;
constexpr size_t kMaxCharsmapBytes = 4u << 20;
constexpr uint32_t kMaxWordChars = 1024;
constexpr uint32_t kDefaultWordChars = 100;
constexpr uint8_t kKnownOptions = 31;

bool has_options(const TokenizerRecord& record) {
  return std::any_of(record.tokens.begin(), record.tokens.end(), [](const auto& t) { return t.options != 0; });
}

Status check_steps(const TokenizerRecord& record) {
  if (record.normalizer.size() > kMaxSteps) {
    return limit_error(str_cat("the normalizer has ", record.normalizer.size(), " steps, the limit is ", kMaxSteps));
  }
  bool needs_charsmap = false;
  for (size_t i = 0; i < record.normalizer.size(); ++i) {
    const NormalizerStep& step = record.normalizer[i];
    const auto op = static_cast<uint32_t>(step.op);
    if (op < 1 || step.op > kLastNormalizerOp) {
      return unsupported(str_cat("step ", i, " of the normalizer is ", op, ", known are 1 to ",
                                 static_cast<uint32_t>(kLastNormalizerOp)));
    }
    const bool has_from = step.op == NormalizerOp::kReplace;
    const bool has_to = has_from || step.op == NormalizerOp::kPrepend || step.op == NormalizerOp::kCollapseSpaces;
    if (step.from.empty() == has_from || (!step.to.empty() && !has_to)) {
      return corrupt(str_cat("step ", i, " of the normalizer has texts that do not go with it"));
    }
    if (step.from.size() > kMaxStepBytes || step.to.size() > kMaxStepBytes) {
      return limit_error(str_cat("step ", i, " of the normalizer has a text of more than ", kMaxStepBytes, " bytes"));
    }
    needs_charsmap = needs_charsmap || step.op == NormalizerOp::kCharsmap;
  }
  if (needs_charsmap != !record.charsmap.empty()) {
    return corrupt("a charsmap and the step of the normalizer that uses it must come together");
  }
  if (record.charsmap.size() > kMaxCharsmapBytes) {
    return limit_error(
        str_cat("the charsmap has ", record.charsmap.size(), " bytes, the limit is ", kMaxCharsmapBytes));
  }
  if (record.charsmap.empty()) return {};
  const size_t rest = record.charsmap.size() - std::min<size_t>(4, record.charsmap.size());
  const uint32_t trie = rest == 0 ? 0 : load_le<uint32_t>(record.charsmap.data());
  if (trie % 4 != 0 || trie < 4 || trie > rest) {
    return corrupt(str_cat("the charsmap's trie has ", trie, " bytes of ", record.charsmap.size()));
  }
  return {};
}

Status check_specials(const TokenizerRecord& record) {
  if (record.more_before.size() > kMaxSpecials || record.after.size() > kMaxSpecials) {
    return limit_error(str_cat("more than ", kMaxSpecials, " special tokens stand on one side of the text"));
  }
  for (const std::vector<uint32_t>* ids : {&record.more_before, &record.after}) {
    for (const uint32_t id : *ids) {
      if (id < record.tokens.size()) continue;
      return corrupt(
          str_cat("special token ", id, " around the text is beyond the ", record.tokens.size(), " that there are"));
    }
  }
  if (!record.more_before.empty() && !record.add_bos) return corrupt("special tokens follow BOS where there is none");
  return {};
}

Status read_steps(ByteReader* reader, TokenizerRecord* record) {
  uint32_t count = 0;
  NWC_TRY(reader->read(&count, "steps of the normalizer"));
  if (count > kMaxSteps) return limit_error(str_cat("the normalizer has ", count, " steps, the limit is ", kMaxSteps));
  record->normalizer = std::vector<NormalizerStep>(count);
  for (NormalizerStep& step : record->normalizer) {
    uint8_t op = 0, reserved = 0;
    uint16_t from = 0, to = 0;
    NWC_TRY(reader->read(&op, "step"));
    NWC_TRY(reader->read(&reserved, "reserved"));
    if (reserved != 0) return unsupported("a reserved byte of the normalizer is set");
    NWC_TRY(reader->read(&from, "length of a text to replace"));
    NWC_TRY(reader->read(&to, "length of its replacement"));
    NWC_TRY(reader->read_string(&step.from, from, "text to replace"));
    NWC_TRY(reader->read_string(&step.to, to, "replacement"));
    step.op = static_cast<NormalizerOp>(op);
  }
  return {};
}

Status read_options(ByteReader* reader, TokenizerRecord* record) {
  uint32_t count = 0;
  std::vector<uint32_t> ids;
  std::vector<uint8_t> options;
  NWC_TRY(reader->read(&count, "tokens with options"));
  NWC_TRY(reader->read_array(&ids, count, "ids of tokens with options"));
  NWC_TRY(reader->read_array(&options, count, "options of tokens"));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= record->tokens.size() || (i > 0 && ids[i] <= ids[i - 1])) {
      return corrupt(str_cat("token ", ids[i], " with options is out of order or beyond the tokens"));
    }
    if (options[i] == 0) return corrupt(str_cat("token ", ids[i], " is listed without options"));
    if (options[i] > kKnownOptions) {
      return unsupported(str_cat("token ", ids[i], " has options ", options[i], ", known are 0 to ", kKnownOptions));
    }
    record->tokens[ids[i]].options = options[i];
  }
  return {};
}

Status read_template(ByteReader* reader, TokenizerRecord* record) {
  uint8_t before = 0, after = 0;
  uint16_t reserved = 0;
  NWC_TRY(reader->read(&before, "special tokens in front"));
  NWC_TRY(reader->read(&after, "special tokens behind"));
  NWC_TRY(reader->read(&reserved, "reserved"));
  if (reserved != 0) return unsupported("reserved bytes of the template are set");
  NWC_TRY(reader->read_array(&record->more_before, before, "special tokens in front"));
  NWC_TRY(reader->read_array(&record->after, after, "special tokens behind"));
  if (before == 0 && after == 0) return corrupt("the template is empty");
  return {};
}

Status read_part(Part part, ByteReader* reader, TokenizerRecord* record) {
  switch (part) {
    case Part::kNormalizer:
      NWC_TRY(read_steps(reader, record));
      return record->normalizer.empty() ? corrupt("the normalizer is empty") : Status();
    case Part::kOptions:
      NWC_TRY(read_options(reader, record));
      return has_options(*record) ? Status() : corrupt("no token has options");
    case Part::kTemplate: return read_template(reader, record);
    case Part::kCharsmap:
      if (reader->remaining() == 0) return corrupt("the charsmap is empty");
      return reader->read_array(&record->charsmap, reader->remaining(), "charsmap");
    case Part::kWordPiece:
      NWC_TRY(reader->read(&record->max_word_chars, "characters of a word"));
      return record->max_word_chars == kDefaultWordChars ? corrupt("a default is written out") : Status();
  }
  return unsupported(str_cat("TOKENIZER section has a part ", static_cast<uint32_t>(part),
                             ", known are 1 to 5; use a newer version of this program"));
}

}  // namespace

bool has_tokenizer_parts(const TokenizerRecord& record) {
  return !record.normalizer.empty() || !record.more_before.empty() || !record.after.empty() ||
         record.max_word_chars != kDefaultWordChars || has_options(record);
}

Status check_tokenizer_parts(const TokenizerRecord& record) {
  NWC_TRY(check_steps(record));
  NWC_TRY(check_specials(record));
  for (size_t id = 0; id < record.tokens.size(); ++id) {
    const TokenizerRecord::Token& token = record.tokens[id];
    if (token.options == 0) continue;
    if (token.options > kKnownOptions) {
      return unsupported(str_cat("token ", id, " has options ", token.options, ", known are 0 to ", kKnownOptions));
    }
    const bool decodes_only = token.type == TokenType::kNormal && record.kind == TokenizerKind::kByteLevelBpe &&
                              token.options == TokenizerRecord::kDecodesOnly;
    const bool looked_for = token.type != TokenType::kNormal && token.type != TokenType::kByte &&
                            token.options < TokenizerRecord::kDecodesOnly;
    if (!decodes_only && !looked_for) {
      return corrupt(str_cat("token ", id, " has options ", token.options, ", which do not go with its type"));
    }
  }
  if (record.kind != TokenizerKind::kWordPiece && record.max_word_chars != kDefaultWordChars) {
    return corrupt("max_word_chars needs a WordPiece tokenizer");
  }
  if (record.max_word_chars == 0 || record.max_word_chars > kMaxWordChars) {
    return limit_error(str_cat("max_word_chars is ", record.max_word_chars, ", it must be 1 to ", kMaxWordChars));
  }
  return {};
}

Status read_tokenizer_parts(ByteReader* reader, TokenizerRecord* record) {
  uint32_t count = 0, last = 0;
  NWC_TRY(reader->read(&count, "parts of the tokenizer"));
  for (uint32_t i = 0; i < count; ++i) {
    uint16_t part = 0, reserved = 0;
    uint32_t size = 0;
    NWC_TRY(reader->read(&part, "part of the tokenizer"));
    NWC_TRY(reader->read(&reserved, "reserved"));
    if (reserved != 0)
      return unsupported(str_cat("a reserved byte of part ", part, " of the TOKENIZER section is set"));
    NWC_TRY(reader->read(&size, "size of a part"));
    const uint64_t offset = reader->offset();
    Bytes bytes;
    NWC_TRY(reader->read_bytes(&bytes, size, "part of the tokenizer"));
    ByteReader part_reader(bytes, offset);
    if (part <= last) return corrupt(str_cat("part ", part, " of the TOKENIZER section is out of order"));
    last = part;
    NWC_TRY(read_part(static_cast<Part>(part), &part_reader, record));
    if (part_reader.remaining() != 0) {
      return unsupported(str_cat("part ", part, " of the TOKENIZER section has ", part_reader.remaining(),
                                 " more bytes than this build knows; use a newer version of this program"));
    }
  }
  return {};
}

void write_tokenizer_parts(const TokenizerRecord& record, ByteWriter* writer) {
  struct Written {
    Part part;
    std::vector<uint8_t> bytes;
  };
  std::vector<Written> parts;
  const auto add = [&](Part part, ByteWriter* bytes) { parts.push_back({part, bytes->take()}); };
  if (!record.normalizer.empty()) {
    ByteWriter part;
    part.write<uint32_t>(static_cast<uint32_t>(record.normalizer.size()));
    for (const NormalizerStep& step : record.normalizer) {
      part.write<uint8_t>(static_cast<uint8_t>(step.op));
      part.write<uint8_t>(0);
      part.write<uint16_t>(static_cast<uint16_t>(step.from.size()));
      part.write<uint16_t>(static_cast<uint16_t>(step.to.size()));
      part.write_string(step.from);
      part.write_string(step.to);
    }
    add(Part::kNormalizer, &part);
  }
  if (has_options(record)) {
    std::vector<uint32_t> ids;
    for (uint32_t id = 0; id < record.tokens.size(); ++id) {
      if (record.tokens[id].options != 0) ids.push_back(id);
    }
    ByteWriter part;
    part.write<uint32_t>(static_cast<uint32_t>(ids.size()));
    for (const uint32_t id : ids) part.write<uint32_t>(id);
    for (const uint32_t id : ids) part.write<uint8_t>(record.tokens[id].options);
    add(Part::kOptions, &part);
  }
  if (!record.more_before.empty() || !record.after.empty()) {
    ByteWriter part;
    part.write<uint8_t>(static_cast<uint8_t>(record.more_before.size()));
    part.write<uint8_t>(static_cast<uint8_t>(record.after.size()));
    part.write<uint16_t>(0);
    for (const uint32_t id : record.more_before) part.write<uint32_t>(id);
    for (const uint32_t id : record.after) part.write<uint32_t>(id);
    add(Part::kTemplate, &part);
  }
  if (!record.charsmap.empty()) {
    ByteWriter part;
    part.write_bytes(record.charsmap);
    add(Part::kCharsmap, &part);
  }
  if (record.max_word_chars != kDefaultWordChars) {
    ByteWriter part;
    part.write<uint32_t>(record.max_word_chars);
    add(Part::kWordPiece, &part);
  }
  writer->write<uint32_t>(static_cast<uint32_t>(parts.size()));
  for (const Written& written : parts) {
    writer->write<uint16_t>(static_cast<uint16_t>(written.part));
    writer->write<uint16_t>(0);
    writer->write<uint32_t>(static_cast<uint32_t>(written.bytes.size()));
    writer->write_bytes(written.bytes);
  }
}

}  // namespace nwc
