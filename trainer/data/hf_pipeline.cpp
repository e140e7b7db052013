#include "trainer/data/hf_pipeline.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_normalizer.h"
#include "trainer/data/hf_pre_tokenizer.h"
#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;
using Parts = std::vector<const Json*>;

constexpr std::string_view kVisibleSpace = "\xe2\x96\x81";  // U+2581

bool is_string(const Json* value, std::string_view expected) {
  return value != nullptr && value->is_string() && value->get_ref<const std::string&>() == expected;
}

// The parts of a Sequence, also nested, in order; a part that is not a Sequence stands alone; null is no part.
void flatten(const Json* part, const char* list_key, Parts* out) {
  if (part == nullptr) return;
  const Json* list = hf_type_of(*part) == "Sequence" ? find_field(*part, list_key) : nullptr;
  if (list == nullptr || !list->is_array()) {
    out->push_back(part);
    return;
  }
  for (const Json& item : *list) flatten(&item, list_key, out);  // depth is bounded by the parser
}

std::string name_of(const char* where, const Json& part) {
  return std::string(where) + " of type \"" + hf_type_of(part) + "\"";
}

Status parse_byte_level_parts(const HfNormalizer& normalizer, const Parts& pre_tokenizers, HfPipeline* pipeline) {
  if (normalizer.shows_spaces || normalizer.prepends_space) {
    return unsupported("normalizer: visible spaces together with ByteLevel");
  }
  NWC_ASSIGN_OR_RETURN(const HfByteLevelSplit split, parse_hf_splits(pre_tokenizers));
  pipeline->kind = TokenizerKind::kByteLevelBpe;
  pipeline->pre_tokenizer = split.row;
  pipeline->add_prefix_space = split.add_prefix_space;
  return {};
}

Status parse_metaspace(const Json& part, HfPipeline* pipeline) {
  // str_rep is the replacement once more, in older files.
  NWC_TRY(refuse_other_keys(part, name_of("pre_tokenizer", part),
                            {"type", "replacement", "str_rep", "prepend_scheme", "add_prefix_space", "split"}));
  if (!is_string(find_field(part, "replacement"), kVisibleSpace)) return unsupported_hf_part("pre_tokenizer", part);
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

// Gemma's pre-tokenizer, which finds no space behind a normalizer that has made them all visible.
bool splits_behind_spaces(const Json& part) {
  const Json* pattern = find_field(part, "pattern");
  return hf_type_of(part) == "Split" && pattern != nullptr && is_string(find_field(*pattern, "String"), " ") &&
         is_string(find_field(part, "behavior"), "MergedWithPrevious");
}

// Two spellings of almost the same thing: normalizers that prepend and replace, or a Metaspace pre-tokenizer.
Status parse_sentencepiece_parts(const HfNormalizer& normalizer, const Parts& pre_tokenizers, HfPipeline* pipeline) {
  pipeline->pre_tokenizer = PreTokenizer::kNone;
  const bool words = pre_tokenizers.size() == 2 && hf_type_of(*pre_tokenizers[0]) == "WhitespaceSplit";
  if (words || (pre_tokenizers.size() == 1 && hf_type_of(*pre_tokenizers[0]) == "Metaspace")) {
    if (normalizer.shows_spaces || normalizer.prepends_space || hf_type_of(*pre_tokenizers.back()) != "Metaspace") {
      return unsupported_hf_part("pre_tokenizer", *pre_tokenizers.back());
    }
    NWC_TRY(parse_metaspace(*pre_tokenizers.back(), pipeline));
    if (words) pipeline->pre_tokenizer = PreTokenizer::kWords;
    return {};
  }
  for (const Json* part : pre_tokenizers) {
    if (!normalizer.shows_spaces || !splits_behind_spaces(*part)) return unsupported_hf_part("pre_tokenizer", *part);
  }
  if (!normalizer.shows_spaces) return unsupported("normalizer: spaces are not replaced by U+2581");
  pipeline->add_prefix_space = pipeline->prepends_always = normalizer.prepends_space;
  return {};
}

Status parse_word_parts(const HfNormalizer& normalizer, const Parts& pre_tokenizers, HfPipeline* pipeline) {
  if (normalizer.shows_spaces || normalizer.prepends_space) {
    return unsupported("normalizer: visible spaces together with WordPiece");
  }
  if (pre_tokenizers.size() != 1) return unsupported("pre_tokenizer: WordPiece needs one part");
  const std::string type = hf_type_of(*pre_tokenizers[0]);
  if (type != "BertPreTokenizer" && type != "WhitespaceSplit") {
    return unsupported_hf_part("pre_tokenizer", *pre_tokenizers[0]);
  }
  NWC_TRY(refuse_other_keys(*pre_tokenizers[0], name_of("pre_tokenizer", *pre_tokenizers[0]), {"type"}));
  pipeline->pre_tokenizer = type == "WhitespaceSplit" ? PreTokenizer::kWords : PreTokenizer::kBert;
  return {};
}

Status add_special(const std::string& name, const Json* id, std::vector<uint32_t>* ids) {
  const std::optional<uint64_t> value = id == nullptr ? std::nullopt : as_u64(*id);
  if (!value || *value >= UINT32_MAX) return corrupt("post_processor: special token \"" + name + "\" has no id");
  ids->push_back(static_cast<uint32_t>(*value));
  return {};
}

// "single" of a TemplateProcessing: special tokens around the text.
Status parse_template(const Json& part, HfPipeline* pipeline) {
  NWC_TRY(refuse_other_keys(part, name_of("post_processor", part), {"type", "single", "pair", "special_tokens"}));
  const Json* single = find_field(part, "single");
  if (single == nullptr || !single->is_array()) return corrupt("post_processor: no template");
  size_t num_texts = 0;
  for (const Json& item : *single) {
    const Json* special = find_field(item, "SpecialToken");
    if (special == nullptr) {
      const Json* text = find_field(item, "Sequence");
      if (text == nullptr || !is_string(find_field(*text, "id"), "A")) {
        return unsupported_hf_part("post_processor", part);
      }
      ++num_texts;
      continue;
    }
    std::string name;
    NWC_TRY(get_field(*special, "id", &name));
    const Json* known = find_field(part, "special_tokens");
    const Json* entry = known == nullptr ? nullptr : find_field(*known, name.c_str());
    const Json* ids = entry == nullptr ? nullptr : find_field(*entry, "ids");
    if (ids == nullptr || !ids->is_array() || ids->empty()) {
      return corrupt("post_processor: special token \"" + name + "\" has no id");
    }
    for (const Json& id : *ids) {
      NWC_TRY(add_special(name, &id, num_texts == 0 ? &pipeline->before : &pipeline->after));
    }
  }
  return num_texts == 1 ? Status() : unsupported("post_processor: a template without the text, or with more than one");
}

// BERT's and RoBERTa's: "cls" in front of the text, "sep" behind it, each a pair of text and id.
Status parse_classifier(const Json& part, HfPipeline* pipeline) {
  NWC_TRY(refuse_other_keys(part, name_of("post_processor", part),
                            {"type", "sep", "cls", "trim_offsets", "add_prefix_space"}));
  const auto add = [&](const char* key, std::vector<uint32_t>* ids) {
    const Json* pair = find_field(part, key);
    const bool complete = pair != nullptr && pair->is_array() && pair->size() == 2;
    return add_special(key, complete ? &(*pair)[1] : nullptr, ids);
  };
  NWC_TRY(add("cls", &pipeline->before));
  return add("sep", &pipeline->after);
}

Status parse_post_processor(const Json& part, HfPipeline* pipeline) {
  const std::string type = hf_type_of(part);
  if (type == "ByteLevel") return {};  // moves offsets, not tokens
  if (!pipeline->before.empty() || !pipeline->after.empty()) return unsupported_hf_part("post_processor", part);
  if (type == "TemplateProcessing") return parse_template(part, pipeline);
  if (type == "BertProcessing" || type == "RobertaProcessing") return parse_classifier(part, pipeline);
  return unsupported_hf_part("post_processor", part);
}

// What makes text of tokens again is built into the engine: this only looks whether the file agrees.
Status check_decoder(const Json* decoder, SourceNotes* notes, HfPipeline* pipeline) {
  const bool byte_level = pipeline->kind == TokenizerKind::kByteLevelBpe;
  const bool word_piece = pipeline->kind == TokenizerKind::kWordPiece;
  if (decoder == nullptr) {
    const char* usual = byte_level ? "ByteLevel" : word_piece ? "WordPiece" : "SentencePiece";
    notes->push_back({NoteKind::kGuessed, "decoder",
                      std::string("tokenizer.json: there is no decoder; that of ") + usual + " is taken"});
    return {};
  }
  Parts parts;
  flatten(decoder, "decoders", &parts);
  bool strips = word_piece;
  for (const Json* part : parts) {
    const std::string type = hf_type_of(*part);
    if (byte_level || word_piece) {
      if (type != (byte_level ? "ByteLevel" : "WordPiece")) return unsupported_hf_part("decoder", *part);
    } else if (type == "Strip") {
      strips = true;
    } else if (type == "Metaspace") {
      strips = strips || !is_string(find_field(*part, "prepend_scheme"), "never");
    } else if (type != "Replace" && type != "ByteFallback" && type != "Fuse") {
      return unsupported_hf_part("decoder", *part);
    }
  }
  pipeline->drop_leading_space = !byte_level && !word_piece && strips && !pipeline->add_prefix_space;
  pipeline->keep_leading_space = !byte_level && !strips && pipeline->add_prefix_space;
  return {};
}

}  // namespace

Status refuse_other_keys(const Json& object, const std::string& where, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_null() || std::find(known.begin(), known.end(), key) != known.end()) continue;
    return unsupported(where + ": the option \"" + key + "\": " + short_json(value) + " is unknown");
  }
  return {};
}

Result<HfPipeline> parse_hf_pipeline(const Json& tokenizer, std::string_view model_type, SourceNotes* notes) {
  Parts normalizers, pre_tokenizers, post_processors;
  flatten(find_field(tokenizer, "normalizer"), "normalizers", &normalizers);
  flatten(find_field(tokenizer, "pre_tokenizer"), "pretokenizers", &pre_tokenizers);
  flatten(find_field(tokenizer, "post_processor"), "processors", &post_processors);

  HfPipeline pipeline;
  NWC_ASSIGN_OR_RETURN(HfNormalizer normalizer, parse_hf_normalizer(normalizers));
  const bool has_byte_level = std::any_of(pre_tokenizers.begin(), pre_tokenizers.end(),
                                          [](const Json* part) { return hf_type_of(*part) == "ByteLevel"; });
  if (model_type == "WordPiece") {
    pipeline.kind = TokenizerKind::kWordPiece;
    NWC_TRY(parse_word_parts(normalizer, pre_tokenizers, &pipeline));
  } else if (has_byte_level && model_type == "BPE") {
    NWC_TRY(parse_byte_level_parts(normalizer, pre_tokenizers, &pipeline));
  } else {
    pipeline.kind = model_type == "Unigram" ? TokenizerKind::kUnigram : TokenizerKind::kSentencePieceBpe;
    NWC_TRY(parse_sentencepiece_parts(normalizer, pre_tokenizers, &pipeline));
  }
  pipeline.normalizer = std::move(normalizer.steps);
  pipeline.charsmap = std::move(normalizer.charsmap);
  for (const Json* part : post_processors) NWC_TRY(parse_post_processor(*part, &pipeline));
  NWC_TRY(check_decoder(find_field(tokenizer, "decoder"), notes, &pipeline));
  return pipeline;
}

}  // namespace nwc
