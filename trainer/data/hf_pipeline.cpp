#include "trainer/data/hf_pipeline.h"

#include <nlohmann/json.hpp>
#include <string_view>

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
  if (type_of(*part) != "Sequence") {
    out->push_back(part);
    return;
  }
  const Json* list = find_field(*part, list_key);
  if (list == nullptr || !list->is_array()) return;
  for (const Json& item : *list) flatten(&item, list_key, out);  // depth is bounded by the parser
}

Status unsupported_part(const char* where, const Json& part) {
  return unsupported(std::string(where) + " of type \"" + type_of(part) + "\", or with these options");
}

struct ByteLevel {
  bool add_prefix_space = true;
  bool use_regex = true;
};

Result<ByteLevel> parse_byte_level(const Json& part) {
  ByteLevel result;
  NWC_TRY(get_field(part, "add_prefix_space", &result.add_prefix_space));
  NWC_TRY(get_field(part, "use_regex", &result.use_regex));
  return result;
}

// The part that stands before ByteLevel, or none.
Result<PreTokenizer> recognise_split(const Json* first, bool use_regex) {
  if (first == nullptr && use_regex) return PreTokenizer::kGpt2;
  if (first == nullptr) return unsupported("pre_tokenizer: ByteLevel without a pattern");
  if (type_of(*first) == "Digits" && use_regex) {
    bool individual = false;
    NWC_TRY(get_field(*first, "individual_digits", &individual));
    if (individual) return PreTokenizer::kSmolLm2;
  }
  if (type_of(*first) == "Split" && !use_regex) {
    bool invert = false;
    NWC_TRY(get_field(*first, "invert", &invert));
    const Json* pattern = find_field(*first, "pattern");
    const Json* regex = pattern == nullptr ? nullptr : find_field(*pattern, "Regex");
    if (!invert && is_string(find_field(*first, "behavior"), "Isolated")) {
      if (is_string(regex, kLlama3Pattern)) return PreTokenizer::kLlama3;
      if (is_string(regex, kGpt2Pattern)) return PreTokenizer::kGpt2;
    }
  }
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
  if (pipeline->add_prefix_space && pipeline->pre_tokenizer != PreTokenizer::kGpt2) {
    return unsupported("pre_tokenizer: add_prefix_space together with a split before it");
  }
  return {};
}

bool replaces_spaces(const Json& part) {
  const Json* pattern = find_field(part, "pattern");
  return type_of(part) == "Replace" && pattern != nullptr && is_string(find_field(*pattern, "String"), " ") &&
         is_string(find_field(part, "content"), kVisibleSpace);
}

Status parse_metaspace(const Json& part, HfPipeline* pipeline) {
  bool split = true;
  NWC_TRY(get_field(part, "split", &split));
  if (split || !is_string(find_field(part, "replacement"), kVisibleSpace)) {
    return unsupported_part("pre_tokenizer", part);
  }
  bool add_prefix_space = true;
  NWC_TRY(get_field(part, "add_prefix_space", &add_prefix_space));
  std::string scheme = add_prefix_space ? "always" : "never";
  NWC_TRY(get_field(part, "prepend_scheme", &scheme));
  pipeline->add_prefix_space = scheme != "never";
  return {};
}

// Two spellings of the same thing: normalizers that prepend and replace, or a Metaspace pre-tokenizer.
Status parse_sentencepiece_parts(const Parts& normalizers, const Parts& pre_tokenizers, HfPipeline* pipeline) {
  pipeline->kind = TokenizerKind::kSentencePieceBpe;
  pipeline->pre_tokenizer = PreTokenizer::kNone;
  bool replaced = false;
  for (const Json* part : normalizers) {
    if (replaces_spaces(*part)) {
      replaced = true;
    } else if (type_of(*part) == "Prepend" && is_string(find_field(*part, "prepend"), kVisibleSpace)) {
      pipeline->add_prefix_space = true;
    } else {
      return unsupported_part("normalizer", *part);
    }
  }
  for (const Json* part : pre_tokenizers) {
    if (type_of(*part) != "Metaspace" || replaced) return unsupported_part("pre_tokenizer", *part);
    NWC_TRY(parse_metaspace(*part, pipeline));
    replaced = true;
  }
  if (!replaced) return unsupported("normalizer: spaces are not replaced by U+2581");
  return {};
}

// "single" of a TemplateProcessing: at most one special token, in front of the text.
Status parse_template(const Json& part, HfPipeline* pipeline) {
  const Json* single = find_field(part, "single");
  if (single == nullptr || !single->is_array()) return corrupt("post_processor: no template");
  bool text_seen = false;
  for (const Json& item : *single) {
    const Json* special = find_field(item, "SpecialToken");
    if (special == nullptr) {
      text_seen = true;
      continue;
    }
    if (text_seen || pipeline->bos_id) return unsupported("post_processor: special tokens other than one in front");
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
  return {};
}

}  // namespace

const std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Result<HfPipeline> parse_hf_pipeline(const Json& tokenizer) {
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
  return pipeline;
}

}  // namespace nwc
