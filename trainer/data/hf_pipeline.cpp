#include "trainer/data/hf_pipeline.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;
using Parts = std::vector<const Json*>;

constexpr std::string_view kVisibleSpace = "\xe2\x96\x81";  // U+2581
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string type_of(const Json& part) {
  const Json* type = find_field(part, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : "";
}

bool is_string(const Json* value, std::string_view expected) {
  return value != nullptr && value->is_string() && value->get_ref<const std::string&>() == expected;
}

// The parts of a Sequence, also nested, in order; a part that is not a Sequence stands alone; null is no part.
void flatten(const Json* part, const char* list_key, Parts* out) {
  if (part == nullptr) return;
  const Json* list = type_of(*part) == "Sequence" ? find_field(*part, list_key) : nullptr;
  if (list == nullptr || !list->is_array()) {
    out->push_back(part);
    return;
  }
  for (const Json& item : *list) flatten(&item, list_key, out);  // depth is bounded by the parser
}

std::string name_of(const char* where, const Json& part) {
  return std::string(where) + " of type \"" + type_of(part) + "\"";
}

Status unsupported_part(const char* where, const Json& part) {
  return unsupported(name_of(where, part) + ", or in this place: " + short_json(part));
}

struct ByteLevel {
  bool add_prefix_space = true;
  bool use_regex = true;
};

Result<ByteLevel> parse_byte_level(const Json& part) {
  ByteLevel result;
  NWC_TRY(refuse_other_keys(part, name_of("pre_tokenizer", part),
                            {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  NWC_TRY(get_field(part, "add_prefix_space", &result.add_prefix_space));
  NWC_TRY(get_field(part, "use_regex", &result.use_regex));
  return result;
}

Result<PreTokenizer> recognise_pattern(const Json& part) {
  NWC_TRY(refuse_other_keys(part, name_of("pre_tokenizer", part), {"type", "pattern", "behavior", "invert"}));
  bool invert = false;
  NWC_TRY(get_field(part, "invert", &invert));
  const Json* pattern = find_field(part, "pattern");
  const Json* regex = pattern == nullptr ? nullptr : find_field(*pattern, "Regex");
  if (invert || !is_string(find_field(part, "behavior"), "Isolated") || regex == nullptr) {
    return unsupported_part("pre_tokenizer", part);
  }
  if (is_string(regex, kLlama3Pattern)) return PreTokenizer::kLlama3;
  if (is_string(regex, kGpt2Pattern)) return PreTokenizer::kGpt2;
  constexpr size_t kMaxShown = 400;
  return unsupported("pre_tokenizer of type \"Split\" by an unknown regular expression: " +
                     regex->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, kMaxShown));
}

// The part that stands before ByteLevel, or none.
Result<PreTokenizer> recognise_split(const Json* first, bool use_regex) {
  if (first == nullptr && use_regex) return PreTokenizer::kGpt2;
  if (first == nullptr) return unsupported("pre_tokenizer: ByteLevel without a pattern");
  if (type_of(*first) == "Digits" && use_regex) {
    NWC_TRY(refuse_other_keys(*first, name_of("pre_tokenizer", *first), {"type", "individual_digits"}));
    bool individual = false;
    NWC_TRY(get_field(*first, "individual_digits", &individual));
    if (individual) return PreTokenizer::kSmolLm2;
  }
  if (type_of(*first) == "Split" && !use_regex) return recognise_pattern(*first);
  return unsupported_part("pre_tokenizer", *first);
}

Status parse_byte_level_parts(const Parts& normalizers, const Parts& pre_tokenizers, HfPipeline* pipeline) {
  if (!normalizers.empty()) return unsupported_part("normalizer", *normalizers[0]);
  if (pre_tokenizers.empty() || type_of(*pre_tokenizers.back()) != "ByteLevel") {
    return unsupported("pre_tokenizer: the last part is not ByteLevel");
  }
  if (pre_tokenizers.size() > 2) return unsupported_part("pre_tokenizer", *pre_tokenizers[1]);
  NWC_ASSIGN_OR_RETURN(const ByteLevel byte_level, parse_byte_level(*pre_tokenizers.back()));
  const Json* first = pre_tokenizers.size() == 2 ? pre_tokenizers[0] : nullptr;
  NWC_ASSIGN_OR_RETURN(pipeline->pre_tokenizer, recognise_split(first, byte_level.use_regex));
  pipeline->kind = TokenizerKind::kByteLevelBpe;
  pipeline->add_prefix_space = byte_level.add_prefix_space;
  if (pipeline->add_prefix_space && first != nullptr) {
    return unsupported("pre_tokenizer: add_prefix_space together with a split before it");
  }
  return {};
}

bool replaces_spaces(const Json& part) {
  const Json* pattern = find_field(part, "pattern");
  return type_of(part) == "Replace" && part.size() == 3 && pattern != nullptr &&
         is_string(find_field(*pattern, "String"), " ") && is_string(find_field(part, "content"), kVisibleSpace);
}

Status parse_metaspace(const Json& part, HfPipeline* pipeline) {
  // str_rep is the replacement once more, in older files.
  NWC_TRY(refuse_other_keys(part, name_of("pre_tokenizer", part),
                            {"type", "replacement", "str_rep", "prepend_scheme", "add_prefix_space", "split"}));
  if (!is_string(find_field(part, "replacement"), kVisibleSpace)) return unsupported_part("pre_tokenizer", part);
  pipeline->splits_at_spaces = true;
  NWC_TRY(get_field(part, "split", &pipeline->splits_at_spaces));
  bool add_prefix_space = true;
  NWC_TRY(get_field(part, "add_prefix_space", &add_prefix_space));
  std::string scheme = add_prefix_space ? "always" : "never";
  NWC_TRY(get_field(part, "prepend_scheme", &scheme));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return unsupported("pre_tokenizer of type \"Metaspace\": prepend_scheme \"" + scheme + "\"");
  }
  if (!add_prefix_space && scheme != "never") {
    return corrupt("pre_tokenizer of type \"Metaspace\": add_prefix_space contradicts prepend_scheme");
  }
  pipeline->add_prefix_space = pipeline->prefix_unless_space = scheme != "never";
  pipeline->prefix_first_only = scheme == "first";
  return {};
}

// Two spellings of almost the same thing: normalizers that prepend and replace, or a Metaspace pre-tokenizer.
Status parse_sentencepiece_parts(const Parts& normalizers, const Parts& pre_tokenizers, HfPipeline* pipeline) {
  pipeline->kind = TokenizerKind::kSentencePieceBpe;
  pipeline->pre_tokenizer = PreTokenizer::kNone;
  if (normalizers.empty() && pre_tokenizers.size() == 1 && type_of(*pre_tokenizers[0]) == "Metaspace") {
    return parse_metaspace(*pre_tokenizers[0], pipeline);
  }
  if (!pre_tokenizers.empty()) return unsupported_part("pre_tokenizer", *pre_tokenizers[0]);
  bool replaced = false;
  for (const Json* part : normalizers) {
    const bool prepends =
        type_of(*part) == "Prepend" && part->size() == 2 && is_string(find_field(*part, "prepend"), kVisibleSpace);
    if (replaces_spaces(*part)) {
      replaced = true;
    } else if (prepends && !pipeline->add_prefix_space) {
      pipeline->add_prefix_space = pipeline->prepends_always = true;
    } else {
      return unsupported_part("normalizer", *part);
    }
  }
  if (!replaced) return unsupported("normalizer: spaces are not replaced by U+2581");
  return {};
}

// "single" of a TemplateProcessing: at most one special token, in front of the text.
Status parse_template(const Json& part, HfPipeline* pipeline) {
  NWC_TRY(refuse_other_keys(part, name_of("post_processor", part), {"type", "single", "pair", "special_tokens"}));
  const Json* single = find_field(part, "single");
  if (single == nullptr || !single->is_array()) return corrupt("post_processor: no template");
  size_t num_texts = 0;
  for (const Json& item : *single) {
    const Json* special = find_field(item, "SpecialToken");
    if (special == nullptr) {
      const Json* text = find_field(item, "Sequence");
      if (text == nullptr || !is_string(find_field(*text, "id"), "A")) return unsupported_part("post_processor", part);
      ++num_texts;
      continue;
    }
    if (num_texts != 0 || pipeline->bos_id) {
      return unsupported("post_processor: special tokens other than one in front: " + short_json(*special));
    }
    std::string name;
    NWC_TRY(get_field(*special, "id", &name));
    const Json* known = find_field(part, "special_tokens");
    const Json* entry = known == nullptr ? nullptr : find_field(*known, name.c_str());
    const Json* ids = entry == nullptr ? nullptr : find_field(*entry, "ids");
    if (ids == nullptr || !ids->is_array() || ids->size() != 1) {
      return corrupt("post_processor: special token \"" + name + "\" has no id");
    }
    const std::optional<uint64_t> id = as_u64((*ids)[0]);
    if (!id || *id >= UINT32_MAX) return corrupt("post_processor: special token \"" + name + "\" has no id");
    pipeline->bos_id = static_cast<uint32_t>(*id);
  }
  return num_texts == 1 ? Status() : unsupported("post_processor: a template without the text, or with more than one");
}

// What makes text of tokens again is built into the engine: this only looks whether the file agrees.
Status check_decoder(const Json* decoder, const HfPipeline& pipeline, SourceNotes* notes) {
  const bool byte_level = pipeline.kind == TokenizerKind::kByteLevelBpe;
  const auto note = [&](const std::string& what) {
    notes->push_back({NoteKind::kGuessed, "decoder", "tokenizer.json: " + what});
  };
  if (decoder == nullptr) {
    note(std::string("there is no decoder; that of ") + (byte_level ? "ByteLevel" : "SentencePiece") + " is taken");
    return {};
  }
  Parts parts;
  flatten(decoder, "decoders", &parts);
  bool strips = false;
  for (const Json* part : parts) {
    const std::string type = type_of(*part);
    if (byte_level) {
      if (type != "ByteLevel") return unsupported_part("decoder", *part);
    } else if (type == "Strip") {
      strips = true;
    } else if (type == "Metaspace") {
      strips = strips || !is_string(find_field(*part, "prepend_scheme"), "never");
    } else if (type != "Replace" && type != "ByteFallback" && type != "Fuse") {
      return unsupported_part("decoder", *part);
    }
  }
  if (!byte_level && strips != pipeline.add_prefix_space) {
    note(std::string("the decoder ") + (strips ? "drops" : "keeps") + " a leading space of the text, the engine " +
         (strips ? "keeps" : "drops") + " it");
  }
  return {};
}

}  // namespace

const std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Status refuse_other_keys(const Json& object, const std::string& where, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_null() || std::find(known.begin(), known.end(), key) != known.end()) continue;
    return unsupported(where + ": the option \"" + key + "\": " + short_json(value) + " is unknown");
  }
  return {};
}

Result<HfPipeline> parse_hf_pipeline(const Json& tokenizer, SourceNotes* notes) {
  Parts normalizers, pre_tokenizers, post_processors;
  flatten(find_field(tokenizer, "normalizer"), "normalizers", &normalizers);
  flatten(find_field(tokenizer, "pre_tokenizer"), "pretokenizers", &pre_tokenizers);
  flatten(find_field(tokenizer, "post_processor"), "processors", &post_processors);

  HfPipeline pipeline;
  bool has_byte_level = false;
  for (const Json* part : pre_tokenizers) has_byte_level = has_byte_level || type_of(*part) == "ByteLevel";
  NWC_TRY(has_byte_level ? parse_byte_level_parts(normalizers, pre_tokenizers, &pipeline)
                         : parse_sentencepiece_parts(normalizers, pre_tokenizers, &pipeline));
  for (const Json* part : post_processors) {
    if (type_of(*part) == "ByteLevel") continue;  // moves offsets, not tokens
    if (type_of(*part) != "TemplateProcessing") return unsupported_part("post_processor", *part);
    NWC_TRY(parse_template(*part, &pipeline));
  }
  NWC_TRY(check_decoder(find_field(tokenizer, "decoder"), pipeline, notes));
  return pipeline;
}

}  // namespace nwc
